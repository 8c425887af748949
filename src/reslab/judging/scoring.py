"""A network's score on labelled batches."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from reslab.judging.metrics import Score, score
from reslab.networks.inference import logits_of
from reslab.pictures.batches import Batch
from reslab.pictures.settings import Averaging

Evaluations = Mapping[str, Callable[[], Iterable[Batch]]]  # split: how to get its batches


def judge(
    network: nn.Module, batches: Iterable[Batch], device: str, averaging: Averaging = "none"
) -> tuple[Score, torch.Tensor]:
    """The score of a network on these batches, and its logits (N, classes)."""
    logits, labels = logits_of(network, batches, device, averaging)
    return score(logits, labels), logits


def judge_all(network: nn.Module, judged: Evaluations, device: str) -> dict[str, Score]:
    """The score on each of several splits."""
    return {name: judge(network, batches(), device)[0] for name, batches in judged.items()}
