"""What to try next, and what to stop: optuna's samplers and pruners, without a memory of their own.

Each trial's fields are a function of (seed, number, the trials before): the study is made anew from
the record each time, so a search that was killed goes on as if it never had been.
"""

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reslab.errors import InputError
from reslab.pictures import draws
from reslab.searching.record import Trial
from reslab.searching.space import Choices, Range, Space

if TYPE_CHECKING:
    import optuna

_JUDGED_FROM = 5  # finished trials, before which none is stopped


def refuse_without_optuna() -> None:
    """Raise InputError with the line to type where the package is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise InputError("search needs a package: pip install 'reslab[search]'")


class Proposal:
    """Fields to try, by the tree-structured Parzen estimator.

    J. Bergstra and others: Algorithms for Hyper-Parameter Optimization, NeurIPS 2011. Stopped by
    the median rule: D. Golovin and others: Google Vizier, KDD 2017.
    """

    def __init__(
        self, space: Space, before: Sequence[Trial], seed: int, number: int, epochs: int
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        start = draws.address(seed, "search", number) % 2**32
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=start),
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=_JUDGED_FROM, n_warmup_steps=max(1, epochs // 4)
            ),
        )
        distributions = {name: _distribution(dimension) for name, dimension in space.items()}
        for trial in before:
            study.add_trial(_as_optuna(trial, space, distributions))
        self._trial = study.ask(distributions)
        drawn = self._trial.params
        self.fields = {name: _value(space[name], drawn[name]) for name in space}

    def hopeless(self, epoch: int, accuracy: float) -> bool:
        """Whether a trial that stands so after an epoch (from 0) is worse than the median then."""
        self._trial.report(accuracy, epoch)
        return bool(self._trial.should_prune())


def _distribution(dimension: Range | Choices) -> "optuna.distributions.BaseDistribution":
    from optuna import distributions

    if isinstance(dimension, Choices):
        return distributions.CategoricalDistribution(tuple(range(len(dimension.values))))
    if dimension.whole:
        low, high = int(dimension.low), int(dimension.high)
        return distributions.IntDistribution(low, high, log=dimension.log)
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _value(dimension: Range | Choices, drawn: Any) -> Any:
    if isinstance(dimension, Choices):
        return dimension.values[drawn]
    return dimension.value(drawn)


def _as_optuna(trial: Trial, space: Space, distributions: Any) -> "optuna.trial.FrozenTrial":
    """A trial as optuna has it; one that failed was as bad as can be."""
    import optuna

    params = {}
    for name, dimension in space.items():
        value = trial.fields[name]
        params[name] = dimension.values.index(value) if isinstance(dimension, Choices) else value
    pruned, failed = trial.state == "pruned", trial.state == "failed"
    accuracy = 0.0 if failed or trial.validation is None else trial.validation.accuracy
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE,
        value=None if pruned else accuracy,
        params=params,
        distributions=distributions,
        intermediate_values={} if failed else dict(enumerate(trial.curve)),
    )
