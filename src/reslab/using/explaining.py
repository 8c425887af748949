"""Explanations of picture files: the marked pictures and the numbers."""

import errno
import itertools
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reslab.disk import (
    open_regular,
    read_regular,
    real_path,
    refuse_foreign,
    refuse_unwritable_name,
    user_path,
    write_safely,
)
from reslab.errors import InputError, NoPlacesError, nearest
from reslab.judging.charts import is_our_png, png_bytes
from reslab.judging.overlay import overlay
from reslab.pictures.decoding import UnreadablePictureError, decode, examine
from reslab.pictures.files import LARGEST_FILE
from reslab.pictures.preprocessing import Preprocessing
from reslab.run.display import Display
from reslab.using.classifier import Classifier
from reslab.using.listing import expand
from reslab.using.prediction import Explanation

_SHOWN = 800  # pixels of the longer side of an overlay, at most
_DIGITS = 4  # of a map's numbers


def explain_pictures(
    model: str | Path,
    pictures: Sequence[str],
    *,
    label: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
) -> Iterator[dict[str, Any] | InputError]:
    """What the model looks at in each picture of files and folders, in their order.

    label: the class to explain; each picture's likeliest if None.
    out: a folder for the overlays, NAME.explained.png; none are written if None.
    Yields path, label, probability, layer, map, size (height, width), region (left, top, right,
    bottom, of the picture's pixels) and png; an InputError where a picture cannot be explained.
    Raises InputError if nothing can.
    """
    paths = expand(pictures, without=None if out is None else user_path(out))
    for note in paths.notes:
        Display().warn(note)
    classifier = Classifier.load(model, device)
    if label is not None and label not in classifier.classes:
        raise InputError(f"--class {label}: unknown{nearest(label, classifier.classes)}")
    folder = None if out is None else _folder(user_path(out))
    for path in paths:
        try:
            found = classifier.explain(path, label)
            data = read_regular(user_path(path), LARGEST_FILE)
            pixels, facts = examine(data, 3, _SHOWN)
        except NoPlacesError:
            raise
        except InputError as error:
            yield error
            continue
        except (UnreadablePictureError, OSError) as error:  # it has changed meanwhile
            yield InputError(f"{path}: {error}")
            continue
        record = classifier.preprocessing
        region = record.region(facts.height, facts.width)
        place = None
        if folder is not None:
            try:
                place = _written(folder, path, label, _marked(pixels, found, record))
            except InputError as error:
                yield error
                continue
        yield {
            "path": path,
            "label": found.label,
            "probability": found.probability,
            "layer": found.layer,
            "size": list(found.map.shape),
            "region": [round(side, 2) for side in region],
            "map": found.map.round(_DIGITS).astype(float).round(_DIGITS).tolist(),
            "png": None if place is None else str(place),
        }


def marked_picture(data: bytes, found: Explanation, record: Preprocessing) -> bytes:
    """The whole picture of a file's bytes with an explanation's map over it, as a PNG.

    Raises UnreadablePictureError if it cannot be read.
    """
    return png_bytes(_marked(decode(data, 3, _SHOWN), found, record))


def _written(folder: Path, path: str, label: str | None, marked: Image.Image) -> Path:
    """Where the overlay of a picture stands now. Raises InputError where none can; OSError."""
    about = sha256(f"{real_path(path)}\0{label}".encode("utf-8", "replace")).hexdigest()
    try:
        place = _place(folder, Path(path).stem, about)
        write_safely(place, png_bytes(marked, about))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # a full disk is so for the others too
            raise
        raise InputError(f"{path}: too long a name for an overlay's") from None
    return place


def _folder(path: Path) -> Path:
    refuse_unwritable_name(path, "--out")
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path}: cannot be made a folder ({error.strerror})") from None
    return path


def _place(folder: Path, stem: str, about: str) -> Path:
    """Where an overlay goes: in the place of itself, or beside those of other pictures of the name.

    Raises InputError if something stands there that is not ours.
    """
    for number in itertools.count(1):
        place = folder / f"{stem}{f' ({number})' if number > 1 else ''}.explained.png"
        if not place.exists():
            return place
        refuse_foreign(place, "--out", is_our_png, "an overlay of reslab's")
        with open_regular(place) as file:
            if about.encode() in file.read(1024):
                return place
    raise AssertionError("numbers do not end")


def _marked(pixels: torch.Tensor, found: Explanation, record: Preprocessing) -> Image.Image:
    """A picture, uint8 (3, H, W), at a size to look at, with the map where it belongs on it."""
    height, width = pixels.shape[-2:]
    scale = min(_SHOWN / max(height, width), max(1.0, 224 / max(height, width)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(size, how)
    left, top, right, bottom = (side * scale for side in record.region(height, width))
    box = round(left), round(top), round(right), round(bottom)
    marks = Image.fromarray(found.map.astype(np.float32)).resize(
        (max(1, box[2] - box[0]), max(1, box[3] - box[1])), Image.Resampling.BILINEAR
    )
    whole = Image.new("F", size, 0.0)
    whole.paste(marks, box[:2])
    return overlay(np.asarray(picture), np.asarray(whole))
