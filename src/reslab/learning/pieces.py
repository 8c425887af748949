"""A batch in pieces that several processes share, and the one order in which they are summed.

A batch is cut into `parts` pieces, however many processes there are. What each piece gives, its
gradients, its loss and its batch-norm statistics, is summed over a binary tree whose shape depends
on the number of pieces alone: floating-point sums depend on their order, and on nothing else.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from reslab.learning.parts.part import Moment, Part
from reslab.networks.inference import as_input
from reslab.pictures.batches import Batch, Batches
from reslab.processes import Team

Node = tuple[int, int]  # the pieces from one to before another, whose sum stands in the tree
_SMALL = 1 << 15  # numbers: so many are sent to all at once, more of them in shares
Compute = Callable[[torch.Tensor, torch.Tensor, Moment, int], tuple[float, int]]


def tree_sum(first: int, end: int, known: Callable[[Node], torch.Tensor | None]) -> torch.Tensor:
    """The sum of the pieces from `first` to before `end`: that of the left half plus the right's.

    known: what a part of the tree has come to; each piece by itself must be known.
    """
    found = known((first, end))
    if found is not None:
        return found
    middle = (first + end) // 2
    left = tree_sum(first, middle, known)
    return left.add_(tree_sum(middle, end, known))


def nodes_within(own: range, first: int, end: int) -> list[Node]:
    """The largest parts of the tree that lie within `own`, from left to right."""
    if end <= own.start or own.stop <= first:
        return []
    if own.start <= first and end <= own.stop:
        return [(first, end)]
    middle = (first + end) // 2
    return nodes_within(own, first, middle) + nodes_within(own, middle, end)


def sum_of(parts: int, team: Team, of: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """The sum of all pieces' vectors, the same bits on all processes, however many there are.

    of: the vector of a piece of this process's own.
    """
    sums = {
        node: tree_sum(*node, lambda piece: of(piece[0]) if piece[1] - piece[0] == 1 else None)
        for node in nodes_within(team.share(parts), 0, parts)
    }
    if team.count == 1:
        return sums[0, parts]
    nodes = [nodes_within(team.share(parts, rank), 0, parts) for rank in range(team.count)]
    most = max(len(each) for each in nodes)
    own = torch.stack([*sums.values()] + [next(iter(sums.values()))] * (most - len(sums)))
    size = own.shape[1]
    if size < _SMALL:
        return _over_all(parts, nodes, team.gather(own))
    # Each process sums its share of the numbers, so that all carry the same load.
    chunk = -(-size // team.count)
    padded = torch.nn.functional.pad(own, (0, chunk * team.count - size))
    theirs = team.swap(padded.view(most, team.count, chunk).transpose(0, 1))
    summed = team.gather(_over_all(parts, nodes, list(theirs)))
    return torch.cat(summed)[:size]


def _over_all(parts: int, nodes: list[list[Node]], sums: list[torch.Tensor]) -> torch.Tensor:
    """The whole tree's sum, from what each process has of it: (nodes, n) each."""
    known: dict[Node, torch.Tensor] = {}
    for own, rows in zip(nodes, sums, strict=True):
        known |= dict(zip(own, rows[: len(own)], strict=True))
    return tree_sum(0, parts, known.get)


class Pieces:
    """The pieces of the batches of a training of which this process computes some."""

    def __init__(
        self, parts: int, team: Team, network: nn.Module, acting: tuple[Part, ...], device: str
    ) -> None:
        self.parts, self.team = parts, team
        self.own = team.share(parts)
        self._network, self._acting, self._device = network, acting, device
        self._together = any(part.mixes for part in acting)
        self._trained = [p for p in network.parameters() if p.requires_grad]

    def batch(self, batches: Batches, epoch: int, step: int) -> list[Batch]:
        """The pieces that this process needs: its own, or all where they are to be mixed.

        Each is made by itself, so that it does not matter with which others it is made.
        """
        rows = batches.rows(epoch, step).tensor_split(self.parts)
        wanted = range(self.parts) if self._together else self.own
        return [batches.made(rows[piece], epoch) for piece in wanted]

    def _on_device(self, made: list[Batch], moment: Moment) -> list[Batch]:
        """This process's own pieces, as the parts of a step want them."""
        pieces = [(as_input(x, self._device), wanted.to(self._device)) for x, wanted in made]
        if not self._together:
            return [self._acted(*piece, moment) for piece in pieces]
        x, targets = (torch.cat(each) for each in zip(*pieces, strict=True))
        x, targets = self._acted(x, targets, moment)
        counts = [len(wanted) for _, wanted in made]
        both = list(zip(torch.split(x, counts), torch.split(targets, counts), strict=True))
        return both[self.own.start : self.own.stop]

    def _acted(self, x: torch.Tensor, targets: torch.Tensor, moment: Moment) -> Batch:
        for part in self._acting:
            x, targets = part.batch(x, targets, moment)
        return x, targets

    def _statistics(self) -> list[torch.Tensor]:
        """What batch norms keep of the batches that they see while they train."""
        norms = [layer for layer in self._network.modules() if isinstance(layer, _NormBase)]
        return [value for norm in norms if norm.training for value in norm.buffers(recurse=False)]

    def step(
        self, made: list[Batch], count: int, moment: Moment, compute: Compute
    ) -> tuple[float, int]:
        """(mean loss, hits) of a batch of `count` pictures; the gradients are its own.

        compute: the loss and hits of a piece, of its share in the batch, with its gradients.
        """
        pieces = dict(zip(self.own, self._on_device(made, moment), strict=True))
        held = self._statistics()
        statistics = [value for value in held if value.is_floating_point()]
        before = [value.clone() for value in held]
        layout: list[torch.Tensor] = []

        def of(piece: int) -> torch.Tensor:
            # Every piece sees the statistics that the step began with.
            for value, earlier in zip(held, before, strict=True):
                value.copy_(earlier)
            for parameter in self._trained:
                parameter.grad = None
            own = replace(moment, piece=piece)
            for part in self._acting:
                part.passing(own)
            loss, right = compute(*pieces[piece], own, count)
            layout[:] = [p for p in self._trained if p.grad is not None]
            numbers = torch.tensor([loss, right, *self.team.asking()], device=self._device)
            return _packed(layout, [*statistics, numbers])

        total = sum_of(self.parts, self.team, of)
        start = 0
        for parameter in layout:
            flat = total[start : start + parameter.numel()]
            parameter.grad = flat.as_strided(parameter.shape, parameter.stride())
            start += parameter.numel()
        for value in statistics:
            value.copy_(total[start : start + value.numel()] / self.parts)
            start += value.numel()
        loss, right, *signals = total[start:].tolist()
        self.team.hear(signals)
        return loss, round(right)


def _packed(parameters: list[torch.Tensor], others: list[torch.Tensor]) -> torch.Tensor:
    """Gradients, each in the order in which its parameter lies in memory, and others, in a row."""
    size = sum(value.numel() for value in [*parameters, *others])
    out = torch.empty(size, device=others[-1].device)
    start = 0
    for parameter in parameters:
        assert parameter.grad is not None
        flat = out[start : start + parameter.numel()]
        flat.as_strided(parameter.shape, parameter.stride()).copy_(parameter.grad)
        start += parameter.numel()
    for value in others:
        out[start : start + value.numel()] = value.flatten()
        start += value.numel()
    return out
