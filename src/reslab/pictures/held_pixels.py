"""Pixels in memory, once for all splits that are carved of the same pictures."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class HeldPixels:
    """Samples' pixels as rows of a tensor that others may share.

    shared: uint8 (M, C, H, W). rows: int64 (N,), which of them, in the samples' order; all if None.
    """

    shared: torch.Tensor
    rows: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of each."""
        return tuple(self.shared.shape[1:])

    def take(self, rows: np.ndarray) -> "HeldPixels":
        chosen = torch.from_numpy(rows)
        return HeldPixels(self.shared, chosen if self.rows is None else self.rows[chosen])

    def of(self, samples: torch.Tensor) -> torch.Tensor:
        """A copy of some samples' pixels, (n, C, H, W)."""
        return self.shared[samples if self.rows is None else self.rows[samples]]

    def one(self, sample: int) -> torch.Tensor:
        """A sample's pixels, (C, H, W)."""
        return self.shared[sample if self.rows is None else self.rows[sample]]

    def whole(self) -> torch.Tensor:
        """All samples' pixels, (N, C, H, W): a copy only where others share them."""
        return self.shared if self.rows is None else self.shared[self.rows]

    @staticmethod
    def joined(parts: "list[HeldPixels | None]") -> "HeldPixels | None":
        """Those of several groups of samples, one after another, if all are of one size."""
        held = [part for part in parts if part is not None]
        if len(held) < len(parts) or len({part.shape for part in held}) > 1:
            return None
        rows = [part.rows for part in held if part.rows is not None]
        if len(rows) == len(held) and all(part.shared is held[0].shared for part in held):
            return HeldPixels(held[0].shared, torch.cat(rows))
        return HeldPixels(torch.cat([part.whole() for part in held]))
