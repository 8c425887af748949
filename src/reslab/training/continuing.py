"""Whether a run may go on: what has changed since it began, and what that means for the result."""

from reslab.errors import InputError
from reslab.learning.schedules import spans_the_run
from reslab.recipes.recipe import Recipe
from reslab.run.folder import Run
from reslab.training.description import circumstances, digest_of
from reslab.training.preparation import Prepared


def refuse_extension(run: Run, recipe: Recipe, epochs: int) -> None:
    """Raise InputError if the run cannot simply go on to so many epochs."""
    if epochs < recipe.epochs:
        raise InputError(f"--epochs {epochs}: the run is to go {recipe.epochs} epochs already")
    made, best = run.info.get("epochs") or 0, run.info.get("best_epoch") or 0
    if recipe.patience and run.finished and made - 1 - best >= recipe.patience:
        raise InputError(
            f"--epochs {epochs}: none of {recipe.patience} epochs after epoch {best} was better,"
            " so patience ends the run here whatever --epochs says; train anew with more --patience"
        )
    if recipe.progressive.start < 1:
        raise InputError(
            f"--epochs {epochs}: the pictures' sizes span the whole run, so more epochs would be"
            " another run; train anew with --epochs"
        )
    if recipe.solves:
        raise InputError(
            f"--epochs {epochs}: a solved head's path spans the whole run, so more epochs would be"
            " another run; train anew with --epochs"
        )
    if spans_the_run(recipe.schedule):
        raise InputError(
            f"--epochs {epochs}: the {recipe.schedule.name} schedule spans the whole run, so more"
            " epochs would be another run; train anew with --epochs"
        )


def refuse_changed(run: Run, prepared: Prepared) -> None:
    """Raise InputError naming what is no longer as it was when the run began."""
    pictures, info = prepared.pictures, run.info
    found: list[str] = []
    now_frozen = digest_of(prepared.network, prepared.frozen)
    now, before = list(pictures.classes), list(info["classes"])
    if now != before:
        found += [f"class {name!r} is new" for name in now if name not in before]
        found += [f"class {name!r} is gone" for name in before if name not in now]
        found = found or ["the classes stand in another order"]
    for split, count in pictures.counts().items():
        if count != info["counts"].get(split):
            found.append(f"{split}: {count:,} pictures where it had {info['counts'].get(split):,}")
    if prepared.fingerprint != info["fingerprint"] and not found:
        found.append("pictures have other contents or other labels")
    before_each: dict[str, str] = info.get("arrangement", {})  # 0.1.0 did not note it
    now_each = pictures.arrangement()
    moved = [name for name, digest in before_each.items() if now_each.get(name) != digest]
    if moved and not found:
        found.append(
            f"{' and '.join(moved)}: the same pictures stand in another order or another split"
        )
    if info.get("frozen", now_frozen) != now_frozen and not found:
        found.append(
            f"the weights of the frozen part differ: {prepared.recipe.weights} has changed"
        )
    if prepared.recipe.network != info["network"]:
        found.append(f"network {prepared.recipe.network} where it had {info['network']}")
    if found:
        raise InputError(
            f"{run.path}: the data or the network has changed since this run began; train anew:",
            found,
        )


def differences(run: Run, device: str) -> list[str]:
    """What may make a resumed run differ in its last digits from one that was never stopped."""
    now = circumstances(device)
    return [
        f"{name} is {now[name]} where the run began with {run.info[name]}"
        for name in now
        if name in run.info and run.info[name] != now[name]
    ]
