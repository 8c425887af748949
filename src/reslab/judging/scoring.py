"""A network's score on labelled batches."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from reslab.judging.metrics import Score, score
from reslab.networks.inference import logits_of
from reslab.pictures.batches import Batch, InOrder
from reslab.pictures.settings import Averaging
from reslab.processes import team

Evaluations = Mapping[str, Callable[[], Iterable[Batch]]]  # split: how to get its batches


def judge(
    network: nn.Module, batches: Iterable[Batch], device: str, averaging: Averaging = "none"
) -> tuple[Score, torch.Tensor]:
    """The score of a network on these batches, and its logits (N, classes)."""
    logits, labels = logits_in_shares(network, batches, device, averaging)
    return score(logits, labels), logits


def judge_all(network: nn.Module, judged: Evaluations, device: str) -> dict[str, Score]:
    """The score on each of several splits."""
    return {name: judge(network, batches(), device)[0] for name, batches in judged.items()}


def logits_in_shares(
    network: nn.Module, batches: Iterable[Batch], device: str, averaging: Averaging
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, classes) and labels (N,) as by `logits_of`, whole batches shared by processes.

    A batch is computed by one of them as it would be by one alone, and nothing is summed, so that
    their number changes no bit; every picture is there once.
    """
    own = team()
    if own.count == 1 or not isinstance(batches, InOrder):
        return logits_of(network, batches, device, averaging)
    numbers = own.share(len(batches))
    logits = torch.empty(0, 0)
    if len(numbers):
        logits, _ = logits_of(network, batches.only(numbers), device, averaging)
    rows = [
        sum(len(batches.rows(number)) for number in own.share(len(batches), rank))
        for rank in range(own.count)
    ]
    return own.gather_rows(logits, rows), batches.labels
