"""A head that is solved: multinomial logistic regression on features, along a path of strengths.

The loss is the mean cross entropy plus `strength / 2` times the squared weights of the features in
units of their own standard deviations; it is convex, so there is nothing to tune but the strength.
J. Friedman, T. Hastie, R. Tibshirani: Regularization Paths for Generalized Linear Models via
Coordinate Descent, J. Stat. Softw. 33 (2010), for the path with warm starts.
"""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

STRONGEST, WEAKEST = 1.0, 1e-3  # what the path spans; both ends lose on every set tried (LOG.md)
_PATH = 10  # strengths, where no recipe says how many
_ITERATIONS = 200  # of L-BFGS at most, for one strength
Stop = Callable[[], None]  # raises if the work is to end here


class CutOffError(Exception):
    """Raised by a `Stop` if a head is to be taken as far as it is solved."""


def _go_on() -> None:
    pass


def strengths(count: int) -> list[float]:
    """The path: so many strengths of regularisation, evenly spaced in their logarithm."""
    if count == 1:
        return [math.sqrt(STRONGEST * WEAKEST)]
    ratio = (WEAKEST / STRONGEST) ** (1 / (count - 1))
    return [STRONGEST * ratio**index for index in range(count)]


class HeadProblem:
    """Features (N, D), classes (N,) and weights of the samples (N,), made ready to be solved."""

    def __init__(self, x: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None) -> None:
        self.mean = x.mean(0)
        self.spread = (x.var(0, unbiased=False) + 1e-12).sqrt()
        # What hardly varies must not be blown up.
        self.spread = self.spread.clamp(min=float(self.spread.mean()) * 1e-3)
        self.x = (x - self.mean) / self.spread
        self.labels = labels
        self.weights = weights

    def solve(self, head: nn.Linear, strength: float, stop: Stop = _go_on) -> bool:
        """Bring the head to the minimum, from where it stands; `stop` is called before each pass.

        Where `stop` raises CutOffError, to the best that was met; returns whether it did not.
        """
        with torch.no_grad():
            weight, bias = self._standardised(head)
        weight.requires_grad_()
        bias.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=_ITERATIONS,
            history_size=20,
            tolerance_grad=1e-5,
            tolerance_change=1e-9,
            line_search_fn="strong_wolfe",
        )

        lowest, best = math.inf, (weight, bias)

        def closure() -> torch.Tensor:
            nonlocal lowest, best
            stop()
            optimizer.zero_grad()
            loss = self.loss(F.linear(self.x, weight, bias)) + strength / 2 * weight.square().sum()
            torch.autograd.backward(loss)
            if loss.item() < lowest:  # a line search also tries what is worse
                lowest, best = loss.item(), (weight.detach().clone(), bias.detach().clone())
            return loss

        whole = True
        try:
            optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch's L-BFGS has no types
        except CutOffError:
            whole, (weight, bias) = False, best
        with torch.no_grad():
            plain = weight / self.spread
            head.weight.copy_(plain)
            head.bias.copy_(bias - plain @ self.mean)
        return whole

    @torch.no_grad()
    def logits(self, head: nn.Linear) -> torch.Tensor:
        return F.linear(self.x, *self._standardised(head))

    def _standardised(self, head: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
        """The head's weights and biases for standardised features, which are on the CPU."""
        weight, bias = head.weight.cpu(), head.bias.cpu()
        return weight * self.spread, bias + weight @ self.mean

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        each = F.cross_entropy(logits, self.labels, reduction="none")
        return each.mean() if self.weights is None else (each * self.weights).mean()


def best_head(
    head: nn.Linear,
    problem: HeadProblem,
    validation: tuple[torch.Tensor, torch.Tensor] | None,
    stop: Stop = _go_on,
) -> float:
    """Bring a head to the solution whose loss on (features, classes) of validation is least.

    Without validation pictures, to that of the strength in the middle. Returns the strength.
    `stop` is called on the way, and may raise; where that is CutOffError, the best so far is taken.
    """
    if validation is None:
        problem.solve(head, middle := strengths(1)[0], stop)
        return middle
    x, labels = validation
    found = []
    for strength in strengths(_PATH):
        whole = problem.solve(head, strength, stop)
        with torch.no_grad():
            logits = head(x.flatten(1).to(head.weight.device)).cpu()
        loss = float(F.cross_entropy(logits, labels))
        found.append((loss, strength, copy.deepcopy(head.state_dict())))
        if not whole:
            break
    _, best, weights = min(found, key=lambda one: one[0])
    head.load_state_dict(weights)
    return best
