"""Prediction in bulk: reslab against the bare forward pass and timm's loader.

    python benchmarks/prediction.py --photos 500

A ResNet-50 with random weights predicts food10's photos, whose short side is 256 pixels. The bare
passes run the same network on a batch that is in memory already: as torch builds it, channels last,
and with its batch norms folded too, which is what reslab runs. Peak memory is taken of fresh
processes that predict 40 of the photos once and ten times over.
"""

import subprocess
import sys

import torch
from measuring import food_folder, in_turn, parser, random_model, seconds, table

PEAK = """
import resource, sys
from reslab import Classifier
paths = sys.stdin.read().splitlines()
for _ in Classifier.load(sys.argv[1]).stream(paths):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--photos", type=int, default=500)
    options.add_argument("--batch", type=int, default=32)
    given = options.parse_args()
    folder = food_folder(given.work)
    paths = sorted(str(path) for path in (folder / "images").rglob("*.jpg"))[: given.photos]
    model = random_model(given.work, "resnet50")

    from reslab import Classifier

    classifier = Classifier.load(model, device="cpu")
    network = Classifier.load(model, device="cpu").model.network
    plain = network.to(memory_format=torch.contiguous_format)
    batch = torch.randn(given.batch, 3, 224, 224)

    def bare() -> float:
        passes = max(1, len(paths) // given.batch)
        with torch.inference_mode():
            taken = seconds(lambda: [plain(batch) for _ in range(passes)])
        return passes * given.batch / taken

    def best_bare() -> float:
        """The same pass in the layout that reslab computes in."""
        last = batch.to(memory_format=torch.channels_last)
        channels_last.to(memory_format=torch.channels_last)
        passes = max(1, len(paths) // given.batch)
        with torch.inference_mode():
            taken = seconds(lambda: [channels_last(last) for _ in range(passes)])
        return passes * given.batch / taken

    import copy

    from reslab.networks.folding import folded

    channels_last = copy.deepcopy(plain)
    twin = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    fused = folded(twin, batch[:1].to(memory_format=torch.channels_last))

    def ceiling() -> float:
        last = batch.to(memory_format=torch.channels_last)
        passes = max(1, len(paths) // given.batch)
        with torch.inference_mode():
            taken = seconds(lambda: [fused(last) for _ in range(passes)])
        return passes * given.batch / taken

    def ours() -> float:
        return len(paths) / seconds(lambda: list(classifier.stream(paths)))

    def timms() -> float:
        from PIL import Image
        from timm.data import create_transform

        how = create_transform((3, 224, 224), interpolation="bilinear", crop_pct=0.875)

        class Photos(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return len(paths)

            def __getitem__(self, index: int) -> torch.Tensor:
                return how(Image.open(paths[index]).convert("RGB"))

        def work() -> None:
            with torch.inference_mode():
                for x in torch.utils.data.DataLoader(Photos(), given.batch, num_workers=2):
                    plain(x)

        return len(paths) / seconds(work)

    rates = in_turn(
        {
            "bare": bare,
            "channels last": best_bare,
            "folded": ceiling,
            "reslab": ours,
            "timm": timms,
        },
        given.repeats,
    )

    def peak(times: int) -> int:
        few = paths[:40] * times
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(model)], input="\n".join(few), text=True,
            capture_output=True, check=True,
        )  # fmt: skip
        return int(done.stdout.split()[-1])

    table(f"prediction of {len(paths)} photos with a ResNet-50, medians of {given.repeats}", [
        ("bare forward pass", f"{rates['bare']:.1f} photos/s"),
        ("bare, channels last", f"{rates['channels last']:.1f} photos/s"),
        ("bare, channels last and folded", f"{rates['folded']:.1f} photos/s"),
        ("timm's transforms and a DataLoader", f"{rates['timm']:.1f} photos/s"),
        ("reslab, files to classes", f"{rates['reslab']:.1f} photos/s"),
        ("of the bare pass", f"{rates['reslab'] / rates['bare']:.0%}"),
        ("of the bare pass, channels last", f"{rates['reslab'] / rates['channels last']:.0%}"),
        ("of the bare pass, folded", f"{rates['reslab'] / rates['folded']:.0%}"),
        ("peak memory, 40 and 400 photos", f"{peak(1)} and {peak(10)} MiB"),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
