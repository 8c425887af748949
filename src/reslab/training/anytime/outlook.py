"""What more time would probably give, from what the time so far has given."""

import math
from collections.abc import Sequence
from typing import Any

LEAST = 4  # judgements, from which on there is anything to go by


def outlook(history: Sequence[dict[str, Any]], validation: int) -> dict[str, Any] | None:
    """What twice the time of learning would add to the validation accuracy, by a straight line.

    The best accuracy so far is taken as a line in the logarithm of the time spent learning, fitted
    by least squares to the later half of the judgements. sure: whether the gain is larger than two
    standard errors of an accuracy on so many `validation` pictures, by Agresti and Coull (The
    American Statistician 52, 1998), which hold for few pictures too. None where there is too
    little to go by. It is a guess: nobody has tried.
    """
    spent, best = 0.0, 0.0
    points = []
    for record in history:
        accuracy = record.get("validation_accuracy")
        if accuracy is None:  # nothing was left to judge by
            continue
        spent += record["seconds"] + record["evaluate_seconds"]
        best = max(best, accuracy)
        points.append((math.log2(max(spent, 1e-3)), best))
    if len(points) < LEAST or not validation:
        return None
    later = points[-max(LEAST, len(points) // 2) :]
    mean_x = sum(x for x, _ in later) / len(later)
    mean_y = sum(y for _, y in later) / len(later)
    spread = sum((x - mean_x) ** 2 for x, _ in later)
    if spread < 1e-6:
        return None
    slope = sum((x - mean_x) * (y - mean_y) for x, y in later) / spread
    gain = min(max(0.0, slope), 1 - best)
    share = (best * validation + 2) / (validation + 4)
    error = math.sqrt(share * (1 - share) / (validation + 4))
    return {"gain_of_twice_the_time": gain, "sure": gain > 2 * error}
