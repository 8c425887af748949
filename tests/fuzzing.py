"""Coverage-guided fuzzing of what reads strangers' bytes; needs `pip install atheris`.

python tests/fuzzing.py decoder|header|lists --minutes 20
Ends with status 0 if nothing but the errors that say what is wrong was raised.
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["reslab", "PIL"]):
    import reslab.pictures.lists as lists
    from reslab.errors import InputError
    from reslab.networks.model_file import load_model, tensor_file
    from reslab.pictures.decoding import FORMATS, UnreadablePictureError, decode

import contextlib
import json
import os

import safetensors.torch
import torch

from drawn_pictures import picture

WEIGHT = {"weight": torch.ones(2, 2)}


def fuzz_decoder(data: bytes) -> None:
    with contextlib.suppress(UnreadablePictureError):
        decode(data, 3, 64)


def fuzz_header(data: bytes) -> None:
    """The bytes as a whole file, as the text of our header, and as a header whose checksum fits."""
    path = Path(tempfile.gettempdir()) / f"reslab-fuzzed-{os.getpid()}.safetensors"
    text = data.decode("utf-8", "replace")
    files = [data, safetensors.torch.save(WEIGHT, {"reslab": text})]
    with contextlib.suppress(ValueError, RecursionError):
        header = json.loads(text)
        if isinstance(header, dict):
            files.append(tensor_file(WEIGHT, header))
    for content in files:
        path.write_bytes(content)
        with contextlib.suppress(InputError):
            load_model(path)


def fuzz_lists(data: bytes) -> None:
    for parse in (lists.parse_list, lists.parse_csv):
        entries, _ = parse(data, "there")
        lists.resolve_labels(entries, ("a", "b"), "the model")
    lists.parse_classes(data, "there")
    lists.is_table(data)


TARGETS = {"decoder": fuzz_decoder, "header": fuzz_header, "lists": fuzz_lists}


def seeds(target: str) -> list[bytes]:
    if target == "header":
        record = {"size": [8, 8], "channels": 3, "mean": [0, 0, 0], "std": [1, 1, 1]}
        header = {
            "format": 1, "classes": ["a", "b"], "network": "small-resnet", "channels": 3,
            "size": [8, 8], "preprocessing": record, "temperature": 1.5, "held": [0.5, 0.9],
        }  # fmt: skip
        return [tensor_file(WEIGHT, header), json.dumps(header).encode()]
    if target == "lists":
        return [b"path,label\na/1.png,a\n", b"a/1.png 0\nb 2.png 1\n", "猫\n狗\n".encode()]
    found = []
    for kind in FORMATS:
        held = io.BytesIO()
        picture(0, 0, (16, 16)).save(held, kind)
        found.append(held.getvalue())
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("target", choices=TARGETS)
    options.add_argument("--minutes", type=float, default=20)
    given = options.parse_args()
    corpus = Path(tempfile.mkdtemp(prefix=f"fuzz-{given.target}-"))
    for number, seed in enumerate(seeds(given.target)):
        (corpus / str(number)).write_bytes(seed)
    limits = [f"-max_total_time={round(given.minutes * 60)}", "-timeout=10", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], str(corpus), "-max_len=4096", *limits], TARGETS[given.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
