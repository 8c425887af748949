"""Real pictures to hold an export against: the validation split of its run, or a folder's."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reslab.disk import read_regular, user_path
from reslab.errors import InputError
from reslab.networks.model_file import Model
from reslab.pictures.decoding import UnreadablePictureError, decode
from reslab.pictures.files import LARGEST_FILE, printable
from reslab.pictures.reading import Track
from reslab.pictures.splitting import complete_splits
from reslab.pictures.table import Samples
from reslab.run.folder import open_run
from reslab.using.listing import expand

MOST = 1000  # pictures
RESIZED = 32  # of them that are checked at another size too


@dataclass(frozen=True)
class Probe:
    """Pictures by number: their names, how to read the bytes of one, and what they are together.

    labels: their classes' indices (n,), where they are known.
    held_out: whether they are of the validation split, which the network was not trained on.
    """

    what: str
    names: tuple[str, ...]
    labels: np.ndarray | None
    read: Callable[[int], bytes]
    held_out: bool

    def __len__(self) -> int:
        return len(self.names)

    def at_another_size(self) -> "Probe":
        """A few of them, made lower by a quarter and narrower by a third.

        Where all pictures have the very size that a network wants, none says how others are
        brought to it.
        """
        rows = _spread(len(self), RESIZED)

        def read(row: int) -> bytes:
            try:
                pixels = decode(self.read(rows[row]), 3).permute(1, 2, 0).numpy()
            except UnreadablePictureError as error:
                raise InputError(f"{self.names[rows[row]]}: {error}") from None
            picture = Image.fromarray(pixels)
            return _png(picture.resize((-(-picture.width * 2 // 3), -(-picture.height * 3 // 4))))

        names = tuple(f"{self.names[row]}, made smaller" for row in rows)
        return Probe(f"{self.what}, made smaller", names, None, read, self.held_out)


def probe_of(location: str | Path, model: Model, check: str | Path | None, track: Track) -> Probe:
    """Up to 1,000 pictures: those of the folder `check`, or of the run's validation split.

    Raises InputError where there are none, or they are not as they were in training.
    """
    if check is not None:
        return _of_folder(check, model)
    return _of_validation(user_path(location), model, track)


def _of_folder(check: str | Path, model: Model) -> Probe:
    found = expand([str(check)])
    paths = [found[row] for row in _spread(len(found))]
    # A folder a class names them; nothing else of a folder does.
    folders = [Path(path).parent.name for path in paths]
    labels = None
    if set(folders) <= set(model.classes):
        labels = np.array([model.classes.index(name) for name in folders])

    def read(row: int) -> bytes:
        try:
            return read_regular(user_path(paths[row]), LARGEST_FILE)
        except OSError as error:
            raise InputError(f"{printable(paths[row])}: {error.strerror or error}") from None

    return Probe(printable(str(check)), tuple(map(printable, paths)), labels, read, False)


def _of_validation(path: Path, model: Model, track: Track) -> Probe:
    folder = path if path.is_dir() else path.parent
    instead = "name a folder of pictures with --check"
    if not (folder / "run.json").is_file():
        raise InputError(
            f"{path}: an export is checked on real pictures, and there is no run beside the model"
            f" whose validation split could be found; {instead}"
        )
    origin = model.origin
    try:
        source = open_run(folder).source
        pictures = source.with_keys(source.open(model.classes), track)
    except InputError as error:
        raise InputError(f"{error}\n  to check the export on other pictures, {instead}") from None
    if origin is None or origin.fingerprint != pictures.fingerprint():
        raise InputError(
            f"{pictures.name}: no longer the very data that the model was trained on, so that its"
            f" validation split cannot be found again; {instead}"
        )
    splits = complete_splits(pictures, origin.splitting, track)[0].splits
    if "validation" not in splits:
        raise InputError(
            f"{folder}: trained without a validation split, on whose pictures an export is"
            f" checked; {instead}"
        )
    samples = splits["validation"]
    samples = samples.take(np.array(_spread(len(samples))))
    return Probe(
        f"validation of {pictures.name}",
        tuple(printable(samples.where(row)) for row in range(len(samples))),
        samples.labels,
        lambda row: _bytes_of(samples, row),
        True,
    )


def _bytes_of(samples: Samples, row: int) -> bytes:
    """A sample's file; as PNG where the data set has pixels and no files."""
    if samples.files is None:
        assert samples.pixels is not None
        pixels = samples.pixels.one(row).permute(1, 2, 0).numpy()
        return _png(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    try:
        return samples.files.read(samples.paths[row])
    except OSError as error:
        raise InputError(f"{samples.where(row)}: {error.strerror or error}") from None


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _spread(count: int, most: int = MOST) -> list[int]:
    """At most so many rows, spread over all."""
    rows = np.linspace(0, count - 1, min(count, most)).round().astype(int)
    return [int(row) for row in np.unique(rows)]
