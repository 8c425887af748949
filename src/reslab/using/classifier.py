"""A trained model at work: pictures in, classes and probabilities out."""

import copy
import re
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image
from torch import nn

from reslab.disk import read_regular, user_path
from reslab.errors import InputError, nearest
from reslab.judging.calibration import least_in_set
from reslab.judging.metrics import probabilities
from reslab.learning.device import choose_device, set_up
from reslab.networks.explaining import grad_cam, spatial_layer
from reslab.networks.folding import folded
from reslab.networks.inference import as_input, averaged
from reslab.networks.model_file import Model, load_model
from reslab.pictures import draws
from reslab.pictures.decoding import UnreadablePictureError, from_pillow
from reslab.pictures.files import LARGEST_FILE, printable
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.reading import in_threads
from reslab.process import computing
from reslab.using.prediction import UNKNOWN, Asked, Explanation, Prediction, told

PictureLike = str | Path | bytes | Image.Image | np.ndarray
BATCH = 32
_TAKEN = (
    "a picture is a path, the bytes of a file, a Pillow image, or uint8 pixels as a NumPy array,"
    " (H, W) or (H, W, 3)"
)


class Classifier:
    """A trained model with its classes and preprocessing.

    >>> classifier = Classifier.load("runs/photos-1")
    >>> classifier.predict("cat.jpg").label
    """

    def __init__(self, model: Model, device: str = "cpu") -> None:
        self.model = model
        self.device = device
        network = model.network.to(device)
        self._network = network.to(memory_format=torch.channels_last)
        self._folded: nn.Module | None = None
        self._folding = threading.Lock()
        self._explained: nn.Module | None = None
        self._explaining = threading.Lock()

    @classmethod
    def load(cls, location: str | Path, device: str = "auto") -> "Classifier":
        """From a run folder or model file. Raises InputError if it is no model of reslab's."""
        computing()
        chosen = choose_device(device)
        set_up(chosen)
        return cls(load_model(location), chosen)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.model.classes

    @property
    def preprocessing(self) -> Preprocessing:
        return self.model.preprocessing

    @overload  # text is an iterable of text to mypy, yet means one path here
    def predict(  # type: ignore[overload-overlap]
        self,
        pictures: PictureLike,
        top: int = 5,
        *,
        unknown_below: float | None = None,
        coverage: float | None = None,
        raw: bool = False,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        pictures: Iterable[PictureLike],
        top: int = 5,
        *,
        unknown_below: float | None = None,
        coverage: float | None = None,
        raw: bool = False,
    ) -> list[Prediction]: ...
    def predict(
        self,
        pictures: PictureLike | Iterable[PictureLike],
        top: int = 5,
        *,
        unknown_below: float | None = None,
        coverage: float | None = None,
        raw: bool = False,
    ) -> Prediction | list[Prediction]:
        """Predict one picture, or several in their order.

        A picture is a path, the bytes of a file, a Pillow image, or an array of uint8 pixels,
        (H, W) grey or (H, W, 3) RGB.
        unknown_below: call a picture "unknown" whose likeliest class has less than this.
        coverage: name for each picture a set of classes that holds its own with this chance, for
            pictures as those of the validation split: `reslab.judging.calibration.least_in_set`.
        raw: probabilities as the network gives them, without the temperature.
        Raises InputError naming every picture that cannot be read.
        """
        asked = self.asked(top, unknown_below=unknown_below, coverage=coverage, raw=raw)
        one = isinstance(pictures, PictureLike)
        if not one and (not isinstance(pictures, Iterable) or isinstance(pictures, torch.Tensor)):
            raise InputError(f"{type(pictures).__name__} is no picture; {_TAKEN}")
        # mypy does not follow `one` to what `pictures` then is.
        results = list(self.stream([pictures] if one else pictures, asked))  # type: ignore[arg-type,list-item]
        # What has no name is told by its place.
        problems = [
            str(result) if one else re.sub("^picture:", f"picture {place}:", str(result))
            for place, result in enumerate(results, 1)
            if isinstance(result, InputError)
        ]
        if problems:
            raise InputError(f"{len(problems)} picture(s) cannot be read:", problems)
        found = [result for result in results if isinstance(result, Prediction)]
        return found[0] if one else found

    def asked(
        self,
        top: int = 5,
        *,
        unknown_below: float | None = None,
        coverage: float | None = None,
        raw: bool = False,
    ) -> Asked:
        """How to tell predictions, as `predict` takes it. Raises InputError if it cannot be."""
        if top < 1:
            raise InputError(f"top is {top}; it is how many classes to name, at least 1")
        if unknown_below is not None:
            if not (_is_number(unknown_below) and 0 <= unknown_below <= 1):
                raise InputError(f"unknown-below {unknown_below}: a probability from 0 to 1")
            if UNKNOWN in self.classes:
                raise InputError(
                    f"unknown-below: the model has a class {UNKNOWN!r}, so the answer would say"
                    " nothing; judge by the probability"
                )
        least = None
        if coverage is not None:
            if raw:
                raise InputError("coverage: sets are of calibrated probabilities, not of raw ones")
            least = least_in_set(self.model.held, coverage, "the model")
        return Asked(top, unknown_below, least, 1.0 if raw else self.model.temperature)

    def stream(
        self, pictures: Iterable[PictureLike], top: int | Asked = 5
    ) -> Iterator[Prediction | InputError]:
        """A prediction for each picture in order, an InputError where it cannot be read.

        top: how many classes to name, or all that `asked` settles.
        Memory stays the same however many there are.
        """
        computing()
        asked = top if isinstance(top, Asked) else self.asked(top)
        read = in_threads(self._read, pictures, ahead=2 * BATCH)
        part, following = list(islice(read, BATCH)), list(islice(read, BATCH))
        # By this call's pictures alone: what was asked before must not change a last digit.
        network = self._for_many() if following else self._network
        while part:
            inputs = [item for _, item in part if isinstance(item, torch.Tensor)]
            table = iter(self._probabilities(network, inputs, asked.temperature))
            for name, item in part:
                if isinstance(item, InputError):
                    yield item
                else:
                    yield told(name, next(table), self.classes, asked)
            part, following = following, list(islice(read, BATCH))

    def _for_many(self) -> nn.Module:
        """The network with a cheaper forward pass, made where there are pictures to pay for it."""
        with self._folding:
            if self._folded is None:
                channels, size = self.model.spec.channels, self.model.spec.size
                example = torch.rand(1, channels, *size, generator=draws.generator(0, "folding"))
                self._folded = folded(self._network, example.to(self.device))
            return self._folded

    def _read(self, picture: PictureLike, name: str = "") -> tuple[str, torch.Tensor | InputError]:
        name = printable(str(picture) if isinstance(picture, str | Path) else name)
        record = self.preprocessing
        try:
            if isinstance(picture, str | Path):
                pixels = record.read(read_regular(user_path(picture), LARGEST_FILE))
            elif isinstance(picture, bytes):
                pixels = record.read(picture)
            else:
                held = _as_pillow(picture)
                pixels = record.fit(from_pillow(held, record.channels)[None])[0]
        except InputError as error:
            return name, error
        except UnreadablePictureError as error:
            return name, InputError(f"{name or 'picture'}: {error}")
        except OSError as error:
            return name, InputError(f"{name}: {error.strerror or error}")
        return name, pixels

    def _probabilities(
        self, network: nn.Module, inputs: list[torch.Tensor], temperature: float
    ) -> np.ndarray:
        if not inputs:
            return np.empty((0, len(self.classes)))
        with torch.inference_mode():
            x = as_input(self.preprocessing.normalise(torch.stack(inputs)), self.device)
            logits = averaged(network, x, self.model.averaging)
        return probabilities(logits.cpu(), temperature)

    def read(self, picture: PictureLike, name: str = "") -> torch.Tensor | InputError:
        """A picture as `rows` takes it, uint8 (C, *size), or why it cannot be read.

        name: what a message calls a picture that is no path.
        """
        return self._read(picture, name)[1]

    def rows(self, pixels: list[torch.Tensor], temperature: float | None = None) -> np.ndarray:
        """Probabilities (N, classes) of what `read` gave, in one pass; calibrated ones if None.

        From the network as it predicts many pictures, however few these are.
        """
        calibrated = self.model.temperature if temperature is None else temperature
        return self._probabilities(self._for_many(), pixels, calibrated)

    def explain(self, picture: PictureLike, label: str | None = None) -> Explanation:
        """Which places of a picture speak for a class: for the likeliest if none is named.

        Raises InputError if the picture cannot be read, the class is unknown, or the network has
        no layer with places.
        """
        self.refuse_unknown_class(label)
        computing()
        name, pixels = self._read(picture)
        if isinstance(pixels, InputError):
            raise pixels
        return self.explain_pixels(pixels, label, name)

    def refuse_unknown_class(self, label: str | None) -> None:
        """Raise InputError for a class that this model has not."""
        if label is not None and label not in self.classes:
            raise InputError(f"no class {label!r} in this model{nearest(str(label), self.classes)}")

    def explain_pixels(
        self, pixels: torch.Tensor, label: str | None = None, name: str = ""
    ) -> Explanation:
        """As `explain`, of what `read` gave for a picture."""
        row = self._probabilities(self._network, [pixels], self.model.temperature)[0]
        index = int(row.argmax()) if label is None else self.classes.index(label)
        x = self.preprocessing.normalise(pixels[None])
        with self._explaining:
            if self._explained is None:
                # Its own modules on the same weights: what follows a gradient hooks into them.
                held = [*self._network.parameters(), *self._network.buffers()]
                self._explained = copy.deepcopy(self._network, {id(one): one for one in held})
            layer = spatial_layer(self._explained, as_input(x, self.device))
            marks = grad_cam(self._explained, x, torch.tensor([index]), layer, self.device)[0]
        shown = pixels.permute(1, 2, 0).numpy()
        return Explanation(name, self.classes[index], float(row[index]), layer, marks, shown)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _as_pillow(picture: object) -> Image.Image:
    """A picture held in memory. Raises UnreadablePictureError saying what is taken."""
    if isinstance(picture, np.ndarray):
        shape = picture.shape
        if picture.dtype != np.uint8 or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
            raise UnreadablePictureError(f"an array of {picture.dtype} {shape}; {_TAKEN}")
        picture = Image.fromarray(np.ascontiguousarray(picture)) if picture.size else picture
    if not isinstance(picture, Image.Image):
        raise UnreadablePictureError(f"{type(picture).__name__} is no picture; {_TAKEN}")
    if not (picture.width and picture.height):
        raise UnreadablePictureError(f"no pixels: {picture.width} x {picture.height}")
    return picture
