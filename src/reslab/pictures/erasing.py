"""Random erasing: a rectangle of a picture is covered, so that no part of it is relied upon alone.

Z. Zhong et al.: Random Erasing Data Augmentation, AAAI 2020, arXiv 1708.04896.
"""

import math

import numpy as np
import torch

AREA = (0.02, 0.33)  # of the picture's, uniform
ASPECT = 0.3  # height to width, each as a share of its side: uniform in its logarithm to 1 / 0.3


def erased(x: torch.Tensor, chance: float, drawn: np.ndarray) -> torch.Tensor:
    """Normalised pictures (N, C, H, W), each with this chance of a rectangle of zeros.

    Zero is the mean colour. drawn: five numbers in [0, 1) a picture (N, 5): whether, area, aspect,
    top, left. The paper draws again what does not fit; here an aspect that fits is drawn at once.
    """
    height, width = x.shape[-2:]
    for row in np.flatnonzero(drawn[:, 0] < chance).tolist():
        _, size, shape, top, left = drawn[row].tolist()
        area = AREA[0] + (AREA[1] - AREA[0]) * size
        low, high = math.log(max(ASPECT, area)), math.log(min(1 / ASPECT, 1 / area))
        aspect = math.exp(low + (high - low) * shape)
        rows = max(1, round(height * math.sqrt(area * aspect)))
        columns = max(1, round(width * math.sqrt(area / aspect)))
        y, x0 = int(top * (height - rows + 1)), int(left * (width - columns + 1))
        x[row, :, y : y + rows, x0 : x0 + columns] = 0
    return x
