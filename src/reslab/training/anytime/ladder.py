"""What to do next: the stage that promises most for the time that is left."""

import math
from typing import Any

from reslab.errors import InputError
from reslab.features.freezing import check_solvable
from reslab.learning.optimizers import block_of
from reslab.networks.catalogue import head_prefix
from reslab.networks.cutting import UncuttableError, cut
from reslab.networks.measuring import measure
from reslab.training.anytime.plan import Stage
from reslab.training.anytime.work import Work
from reslab.training.preparation import Prepared

MORE = 1.3  # times as many pictures, if not all, for which a head is solved again
GLANCE = 250  # pictures of train that the very first model learns from, where there are many
GLANCE_SHARE = 0.3  # of the time that these may take
WORTH = 2.0  # seconds of learning below which a stage is not begun
WORTH_TOGETHER = 0.5  # the same of the chosen head on all pictures, whose features are there
CALMER = 0.2  # of the rate, after a training that diverged
PASSES = 3.8  # forward passes that a training step costs
EARLY = 0.25  # of a pass's operations, that the first layers may take
LATER_PASSES = 3.0  # forward passes that a step of all but the first layers costs
LAST = 0.4  # of a pass's operations, that the last layers may take
LAST_PASSES = 0.9  # forward passes of the whole network, that a step of the last layers costs
LAST_EPOCHS = (2, 4)  # least that are worth their features; enough, then more of the network pays
LEAST_STEPS = 100  # of a training; with less, food10's accuracy at 100 photos a class fell (LOG.md)
LAST_VIEWS = 8  # of each picture at most
FULL_RATE_STEPS = 200  # of the last layers; in fewer, full steps would carry the weights too far
WHOLE_FROM = 20.0  # epochs of the whole network, for which the first layers need not be spared
FULL_RATE_AT = 2.0  # epochs; a shorter training would not find back from large steps, and in a
# longer one they would carry the weights too far from where they were pretrained
HEAD_SHARE = 0.4  # of the time left, that features for a solved head may take
HEAD_ALONE = 0.85  # the same, where there is time for nothing else
LEAST_EPOCHS = 1.0  # of more layers; with less, food10's accuracy fell (LOG.md)
TOO_FEW = 0.1  # epochs of more layers, for which they are not worth preparing
QUICK_SHARE = 0.15  # of the time, for a first model where nothing was pretrained
CYCLES = 4  # that are each longer than the one before
LONGER = 4  # a cycle from scratch is so many times as long as the one before

# Where features are cached, what goes by pictures cannot be.
CACHED: dict[str, Any] = {
    "features": "cached", "averaging": "none", "mix.cutmix": 0.0, "drop_path": 0.0,
}  # fmt: skip
HEAD: dict[str, Any] = CACHED | {
    "train_from": "head",
    "head": "solved",
    "views": 0,
    "ema_decay": 0.0,
    "mix.mixup": 0.0,
    "optimizer.clip_norm": 0.0,
    "augment.policy": "none",
    "augment.erase": 0.0,
}
# Chosen on food10's validation split (LOG.md).
WHOLE: dict[str, Any] = {
    "train_from": "all",
    "head": "trained",
    "batch_size": 32,
    "label_smoothing": 0.1,
    "ema_decay": 0.998,
    "optimizer.name": "adamw",
    "optimizer.nesterov": False,
    "optimizer.lr": 3e-4,
    "optimizer.weight_decay": 0.05,
    "optimizer.layer_decay": 1.0,
    "schedule.name": "cosine",
    "schedule.warmup": 0.1,
}
LATER: dict[str, Any] = WHOLE | {"features": "online", "views": 1000}
LAST_LAYERS: dict[str, Any] = WHOLE | CACHED | {"precision": "fp32", "optimizer.lr": 5e-4}


def next_stage(work: Work) -> Stage | None:
    """The next stage of a plan, or None if no time is left for one."""
    assert work.clock is not None
    if work.plan.stages and work.clock.left_to_learn < WORTH:
        found = _together(work) if work.clock.left_to_learn > WORTH_TOGETHER else None
    else:
        found = _after_head(work) if _solvable(work.base) else _from_scratch(work)
    if found is None:
        return None
    # Nesterov goes with the optimiser: the user's, or the stage's own, which knows none.
    pinned = set(work.plan.pinned) - _needed(found.fields) - {"optimizer.nesterov"}
    if "optimizer.name" in pinned:
        pinned.add("optimizer.nesterov")
    kept = {name: value for name, value in found.fields.items() if name not in pinned}
    given_up = sum(stage.diverged for stage in work.plan.stages)
    if given_up:
        rate = kept.get("optimizer.lr", work.base.recipe.optimizer.lr)
        kept["optimizer.lr"] = rate * CALMER**given_up
    return found.model_copy(update={"fields": kept})


def _needed(fields: dict[str, Any]) -> set[str]:
    """What a stage with these fields cannot have otherwise, whoever asked for it."""
    if fields["train_from"] == "head":
        return set(HEAD)
    return set(CACHED) if fields.get("features") == "cached" else set()


def _solvable(base: Prepared) -> bool:
    """Whether there is something that was learned before, and a head that can be solved on it."""
    recipe = base.recipe
    if recipe.weights == "none":
        return False
    try:
        check_solvable(base.network, recipe.with_fields({"head": "solved"}))
    except InputError:
        return False
    return True


def _after_head(work: Work) -> Stage | None:
    clock, stages = work.clock, work.plan.stages
    assert clock is not None
    count = len(work.base.pictures.splits["train"])
    if not stages:
        least, possible = 2 * len(work.base.pictures.classes), GLANCE
        if clock.rate is not None:
            possible = int(GLANCE_SHARE * clock.left * clock.rate)
        few = min(GLANCE, max(least, possible))
        return Stage(
            name="head",
            why="a first model in the shortest time: plain features, a solved head",
            fields=HEAD,
            pictures=few if count > 2 * few else None,
        )
    whole_heads = (stage for stage in stages if stage.passes is None)
    seen = max((stage.pictures or count for stage in whole_heads), default=0)
    # How many times all pictures could pass forward.
    passes = (clock.rate or 0.0) * clock.left_to_learn / count
    share = HEAD_SHARE if passes > 1 + PASSES * LEAST_EPOCHS else HEAD_ALONE
    precision, gain = work.features_precision
    possible = int(count * share * passes * gain)
    if all(stage.fields.get("train_from") == "head" for stage in stages) and seen < count:
        known = max(stage.pictures or count for stage in stages)
        wanted = min(count, max(seen + possible, known))
        if wanted > MORE * seen or wanted == count:
            return Stage(
                name="head",
                why="the head again, on more of the pictures",
                fields=HEAD | {"precision": precision},
                pictures=None if wanted == count else wanted,
            )
    later = later_layers(work.base)
    last = None
    if all(one.name != "last layers" for one in stages):
        last = _last_layers(work, passes)
    epochs = passes / (LATER_PASSES if later else PASSES)
    if epochs < LEAST_EPOCHS or (last is None and epochs * _steps(count) < LEAST_STEPS):
        found = _together(work)
        if found is not None:
            return found  # what time is left may still be tried on more of the network
    if last is not None:
        return last
    whole = passes / PASSES  # epochs of all layers
    # What is kept unseen must promise more.
    if whole < (TOO_FEW if work.plan.chooses else LEAST_EPOCHS):
        return None
    if later is None or whole >= WHOLE_FROM:
        return _trained(work, whole, "all", "all layers", WHOLE)
    epochs, fields = passes / LATER_PASSES, LATER | {"train_from": later}
    return _trained(work, epochs, "later layers", f"from {later} on", fields)


def _together(work: Work) -> Stage | None:
    """The head that validation chose, solved on the validation pictures too."""
    last = work.plan.stages[-1]
    chosen = work.best_stage is last and last.fields.get("train_from") == "head"
    if last.together or not chosen or last.pictures or last.passes or not last.strength:
        return None
    # Averages over views are known of no features, and could not be judged any more after it.
    if "validation" not in work.base.pictures.splits or work.averages:
        return None
    return Stage(
        name="head on all",
        why="the same head on the validation pictures too, which have chosen it",
        fields=last.fields,
        strength=last.strength,
        together=True,
    )


def _trained(work: Work, epochs: float, name: str, what: str, fields: dict[str, Any]) -> Stage:
    """Training on pictures to the end of the time, which will do for about so many epochs."""
    share = epochs / FULL_RATE_AT
    rate = fields["optimizer.lr"] * math.sqrt(min(share, 1 / share))
    most = work.progress.epoch + math.ceil(2 * epochs) + 1
    return Stage(
        name=name,
        why=f"{what}, for the time that is left: about {epochs:.1f} epochs",
        fields=fields | {"epochs": most, "optimizer.lr": rate},
    )


def _last_layers(work: Work, passes: float) -> Stage | None:
    """The last layers on cached features of the others, if there is time for `passes` of all."""
    pictures = work.base.pictures.counts()
    least, enough = LAST_EPOCHS
    steps = _steps(pictures["train"])
    most = max(enough, -(-LEAST_STEPS // steps))  # few pictures get more epochs
    epochs, views = _affordable(passes - pictures["validation"] / pictures["train"], enough, most)
    worth = epochs >= enough or (epochs >= least and epochs * steps >= LEAST_STEPS)
    layer = last_layers(work.base) if worth else None
    if layer is None:
        return None
    seen = "one view" if views == 1 else f"{views} views"
    rate = LAST_LAYERS["optimizer.lr"] * min(1, epochs * steps / FULL_RATE_STEPS)
    return Stage(
        name="last layers",
        why=f"from {layer} on, on cached features of what comes before: {epochs} epochs of {seen}",
        fields=LAST_LAYERS
        | {
            "train_from": layer,
            "views": views,
            "optimizer.lr": rate,
            "epochs": work.progress.epoch + (epochs if epochs >= enough else 2 * epochs),
        },
    )


def _steps(pictures: int) -> int:
    """Of an epoch of so many pictures."""
    return -(-pictures // int(LAST_LAYERS["batch_size"]))


def _affordable(passes: float, enough: int, most: int) -> tuple[int, int]:
    """(epochs, views) of the last layers for which `passes` of all pictures will do.

    As many views as half the epochs; but less time than for `enough` epochs is better spent on
    epochs of one view.
    """
    for epochs in range(most, enough - 1, -1):
        views = min(LAST_VIEWS, epochs // 2)
        if views + epochs * LAST_PASSES <= passes:
            return epochs, views
    return min(enough, int((passes - 1) / LAST_PASSES)), 1


def last_layers(base: Prepared) -> str | None:
    """The first of the last layers that take `LAST` of the operations, if it can be cut there."""
    costs = _costs(base)
    left, found = LAST * sum(costs.values()), None
    for block in reversed(costs):
        left -= costs[block]
        if left < 0:
            break
        if costs[block]:
            found = block
    return found if _can_be_cut(base, found) else None


def later_layers(base: Prepared) -> str | None:
    """The layer after the first ones that take `EARLY` of the operations, if it can be cut there.

    The first layers know edges and colours, which all photos have, and cost more time than their
    operations say, since their maps are large.
    """
    costs = _costs(base)
    left, found = EARLY * sum(costs.values()), None
    for number, block in enumerate(costs):
        left -= costs[block]
        if left < 0:
            found = block if number else None
            break
    return found if _can_be_cut(base, found) else None


def _costs(base: Prepared) -> dict[str, int]:
    """Multiply-adds of each block but the head, in their order."""
    costs: dict[str, int] = {}
    for layer in measure(base.network, base.spec).layers:
        block = block_of(f"{layer.name}.weight")
        costs[block] = costs.get(block, 0) + layer.multiply_adds
    heads = {prefix.rstrip(".") for prefix in head_prefix(base.recipe.network, base.network)}
    return {block: cost for block, cost in costs.items() if block not in heads}


def _can_be_cut(base: Prepared, layer: str | None) -> bool:
    try:
        if layer is not None:
            cut(base.network, layer)
    except UncuttableError:
        return False
    return layer is not None


def _from_scratch(work: Work) -> Stage:
    clock, stages = work.clock, work.plan.stages
    assert clock is not None
    epochs = work.base.recipe.epochs
    fields: dict[str, Any] = {"train_from": "all", "head": "trained"}
    if not stages:
        return Stage(
            name="first",
            why="a first model in a small share of the time",
            fields=fields | {"epochs": epochs},
            share=QUICK_SHARE,
        )
    length = epochs * LONGER ** min(len(stages), CYCLES)
    return Stage(
        name="longer",
        why="again from the best so far, along a schedule for the time that is left",
        fields=fields | {"epochs": work.progress.epoch + length},
    )
