"""TrivialAugment in its wide form: one operation at one strength for each picture.

S. Müller, F. Hutter: TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation, ICCV 2021,
arXiv 2103.10158. The operations and their ranges are torchvision's; the draws have addresses.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

STRENGTHS = 31
Operation = Callable[[torch.Tensor, float], torch.Tensor]


def _moved(
    pixels: torch.Tensor,
    *,
    translate: tuple[float, float] = (0, 0),
    shear: tuple[float, float] = (0, 0),
    center: list[float] | None = None,
) -> torch.Tensor:
    from torchvision.transforms.v2 import functional

    found: torch.Tensor = functional.affine(
        pixels,
        angle=0.0,
        translate=[int(pixels_of) for pixels_of in translate],
        scale=1.0,
        shear=[math.degrees(math.atan(slope)) for slope in shear],
        center=center,
    )
    return found


def _of_torchvision(name: str, pixels: torch.Tensor, *strength: float) -> torch.Tensor:
    # Imported at the first picture: half a second that no other run should wait for.
    from torchvision.transforms.v2 import functional

    found: torch.Tensor = getattr(functional, name)(pixels, *strength)
    return found


# Each operation of (pixels, strength in [0, 1]), and whether its strength has a sign. Shears keep
# the upper left corner where it is.
OPERATIONS: dict[str, tuple[Operation, bool]] = {
    "identity": (lambda x, _: x, False),
    "shear x": (lambda x, s: _moved(x, shear=(0.99 * s, 0), center=[0, 0]), True),
    "shear y": (lambda x, s: _moved(x, shear=(0, 0.99 * s), center=[0, 0]), True),
    "translate x": (lambda x, s: _moved(x, translate=(32 * s, 0)), True),
    "translate y": (lambda x, s: _moved(x, translate=(0, 32 * s)), True),
    "rotate": (lambda x, s: _of_torchvision("rotate", x, 135 * s), True),
    "brightness": (lambda x, s: _of_torchvision("adjust_brightness", x, 1 + 0.99 * s), True),
    "colour": (lambda x, s: _of_torchvision("adjust_saturation", x, 1 + 0.99 * s), True),
    "contrast": (lambda x, s: _of_torchvision("adjust_contrast", x, 1 + 0.99 * s), True),
    "sharpness": (lambda x, s: _of_torchvision("adjust_sharpness", x, 1 + 0.99 * s), True),
    "posterise": (lambda x, s: _of_torchvision("posterize", x, round(8 - 6 * s)), False),
    "solarise": (lambda x, s: _of_torchvision("solarize", x, 255 * (1 - s)), False),
    "auto-contrast": (lambda x, _: _of_torchvision("autocontrast", x), False),
    "equalise": (lambda x, _: _of_torchvision("equalize", x), False),
}
_ALL = tuple(OPERATIONS.values())


def trivial_augment(pixels: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
    """uint8 pictures (N, C, H, W), each changed by one operation, as new uint8 (N, C, H, W).

    drawn: three numbers in [0, 1) a picture (N, 3): operation, strength, sign.
    """
    changed = []
    for picture, (which, level, sign) in zip(pixels, drawn.tolist(), strict=True):
        operation, signed = _ALL[int(which * len(_ALL))]
        strength = int(level * STRENGTHS) / (STRENGTHS - 1)
        changed.append(operation(picture, -strength if signed and sign < 0.5 else strength))
    return torch.stack(changed)
