"""Whether one network is better than another on the same pictures, or only luckier."""

from dataclasses import dataclass

import numpy as np

_DRAWS = 10_000  # of the bootstrap


@dataclass(frozen=True)
class Paired:
    """Two networks on the same n pictures.

    difference: the second's accuracy less the first's; interval: 95 % of it.
    p_value: how likely so uneven a share of `first_only` and `second_only` is between networks of
        which neither is better.
    """

    n: int
    first_only: int
    second_only: int
    difference: float
    interval: tuple[float, float]
    p_value: float


def paired(first: np.ndarray, second: np.ndarray) -> Paired:
    """Compare two networks by which pictures each got right: bool (N,), N > 0.

    The p value is that of the exact test of Q. McNemar (Psychometrika 12, 1947): the pictures that
    one alone got right, against a fair coin. The interval is a paired bootstrap's: pictures are
    drawn anew with both answers (B. Efron, R. Tibshirani: An Introduction to the Bootstrap, 1993).
    """
    n = len(first)
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    # Drawing pictures is drawing how many of each of the three kinds there are.
    chances = np.array([one, other, n - one - other]) / n
    drawn = np.random.default_rng(0).multinomial(n, chances, size=_DRAWS)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / n, [0.025, 0.975])
    return Paired(n, one, other, (other - one) / n, (float(low), float(high)), mcnemar(one, other))


def mcnemar(one: int, other: int) -> float:
    """Two-sided exact p value of two counts, were both as likely."""
    from scipy.stats import binomtest

    return float(binomtest(one, one + other).pvalue) if one + other else 1.0


def corrected(p_values: list[float]) -> list[float]:
    """p values for several comparisons at once, by S. Holm (Scand. J. Stat. 6, 1979)."""
    order = np.argsort(p_values, kind="stable")
    found, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order.tolist()):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        found[index] = largest
    return found
