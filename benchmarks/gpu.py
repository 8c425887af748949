"""On a GPU: a training of cifar10-fast, and the extraction of features; `make gpu` runs it.

python benchmarks/gpu.py     # needs ../shared
"""

import os
import sys
import tempfile

import reslab  # before torch: it sets how torch's threads wait

# isort: split
import torch
import torchvision
from measuring import cifar_folder, food_folder, parser, table


def main() -> None:
    asked = parser(__doc__).parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: torch finds no CUDA device here")
    rows = [("GPU", torch.cuda.get_device_name())]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RESLAB_CACHE"] = f"{folder}/cache"
        cifar = cifar_folder(asked.work)
        for parts in (None, 4):  # as it is, and so that several processes change no bit
            run = reslab.train(
                cifar, recipe="cifar10-fast", parts=parts, device="cuda", quiet=True,
                out=f"{folder}/cifar{parts}",
            )  # fmt: skip
            spent = run.info["seconds"]["train"]
            named = f"cifar10-fast, 10 epochs{'' if parts is None else ', in 4 parts'}"
            rows.append((named, f"{spent:.1f} s of training, {run.test['accuracy']:.2%}"))
        weights = f"{folder}/resnet50.pth"
        torch.save(torchvision.models.resnet50(weights=None).state_dict(), weights)
        for precision in ("fp32", "bf16"):
            run = reslab.train(
                food_folder(asked.work) / "train.txt", recipe="photos", weights=weights,
                precision=precision, views=1, epochs=1, device="cuda", quiet=True,
                out=f"{folder}/{precision}",
            )  # fmt: skip
            count, spent = run.info["features"]["computed"], run.info["seconds"]["features"]
            rows.append((f"features of a ResNet-50, {precision}", f"{count / spent:,.0f} views/s"))
    table("A GPU", rows)


if __name__ == "__main__":
    main()
