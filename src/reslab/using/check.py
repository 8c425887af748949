"""The doctor: looks at a data set, and says what is wrong with it. It changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx

from reslab.checking.cleaned import refuse_unlistable, write_cleaned
from reslab.checking.copies import copies_in
from reslab.checking.frozen import feature_issues, features_of
from reslab.checking.issues import (
    Issue,
    counts_of,
    sorted_issues,
    unreadable_issues,
    write_issues,
)
from reslab.checking.looks import Looked, look_over
from reslab.checking.oddities import mismatched_issues, odd_issues
from reslab.checking.whole import set_issues
from reslab.disk import refuse_foreign, user_path
from reslab.errors import InputError
from reslab.features.freezing import cut_head
from reslab.learning.device import choose_device, set_up
from reslab.networks.catalogue import NetworkSpec, build_network
from reslab.networks.cutting import UncuttableError
from reslab.networks.model_file import load_model
from reslab.networks.pretrained import load_pretrained
from reslab.options import refuse_unknown, taken, taking
from reslab.pictures.data_source import DataSource
from reslab.pictures.issue_table import chosen_kinds, is_issue_table
from reslab.pictures.preprocessing import Preprocessing
from reslab.process import computing
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe
from reslab.reporting.checked import write_check
from reslab.reporting.page import is_our_page
from reslab.reporting.words import choose_language
from reslab.run.display import Display
from reslab.run.folder import refuse_inside_data
from reslab.training.inputs import complete_inputs, preprocessing_of, with_whole_paths

NOT_JUDGED = ("label", "outlier")  # without a network that has learned something


@dataclass(frozen=True)
class Checked:
    """What a check found.

    counts: issues by kind; path: issues.csv; page: check.html; cleaned: how many pictures the
    written lists are without, or None.
    """

    data: str
    pictures: int
    counts: dict[str, int]
    not_judged: tuple[str, ...]
    path: Path
    page: Path
    cleaned: int | None = None
    issues: tuple[Issue, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "pictures": self.pictures,
            "issues": self.counts,
            "not_judged": list(self.not_judged),
            "path": str(self.path),
            "page": str(self.page),
            "left_out": self.cleaned,
        }


@taking(DataSource)
def check(
    data: str | Path,
    *,
    network: str | None = None,
    weights: str | Path | None = None,
    model: str | Path | None = None,
    out: str | Path = "check",
    write_lists: str | Path | None = None,
    language: str | None = None,
    device: str = "auto",
    quiet: bool = False,
    **options: Any,
) -> Checked:
    """Look for what is wrong with a data set: issues.csv and check.html in the folder `out`.

    network, weights: a pretrained network, by whose features labels and outliers are judged.
    model: a run folder or model file in their place. Without either, labels and outliers are not
        judged.
    write_lists: a folder for lists without what is wrong, as train takes them; the kinds are
        those of `kinds`, else the harmful ones.
    language: which one the page opens in, en or zh; the system's if None. It has both.
    No picture is changed, moved or deleted. Raises InputError if the data cannot be opened.
    """
    refuse_unknown(options, DataSource)
    source = DataSource.named(data, taken(options, DataSource))
    named = source.kinds
    kinds = chosen_kinds(named)
    if write_lists is not None and source.without is None:
        source = source.model_copy(update={"kinds": None})  # they are the lists' alone
    language = choose_language(language)
    folder = user_path(out)
    lists = None if write_lists is None else user_path(write_lists)
    refuse_inside_data(folder, user_path(str(data)), "folder")
    _refuse_foreign(folder)
    display = Display(quiet=quiet)
    computing()
    device = choose_device(device)
    judge = judge_of(network, weights, model)
    opened = source.open()
    if lists is not None:
        refuse_inside_data(lists, user_path(str(data)), "folder")
        refuse_unlistable(opened, lists)
    looked = look_over(opened, display.track)
    issues, not_judged = _issues(looked, judge, device, display)
    folder.mkdir(parents=True, exist_ok=True)
    table, page = folder / "issues.csv", folder / "check.html"
    write_issues(table, issues)
    write_check(page, looked, issues, not_judged, language)
    cleaned = None
    if lists is not None:
        cleaned = write_cleaned(lists, looked, issues, kinds, named=named is not None)
    total = len(looked) + len(looked.unread)
    return Checked(
        looked.pictures.name, total, counts_of(issues), not_judged, table, page, cleaned,
        tuple(issues),
    )  # fmt: skip


Parts = tuple[fx.GraphModule, Preprocessing]
Judge = Callable[[Looked], Parts]


def _issues(
    looked: Looked, judge: Judge | None, device: str, display: Display
) -> tuple[list[Issue], tuple[str, ...]]:
    """All that is found, the worst first, and the kinds that could not be judged."""
    copies, groups = copies_in(looked)
    found = [
        *unreadable_issues(looked.unread, looked.classes),
        *mismatched_issues(looked),
        *copies,
        *odd_issues(looked),
        *set_issues(looked),
    ]
    if judge is None:
        return sorted_issues(found), NOT_JUDGED
    set_up(device)
    before, preprocessing = judge(looked)
    features = features_of(looked, before, preprocessing, device, display)
    if not bool(torch.isfinite(features).all()):
        raise InputError("the network's features are not finite; are its weights damaged?")
    return sorted_issues([*found, *feature_issues(looked, features, groups)]), ()


def judge_of(
    network: str | None, weights: str | Path | None, model: str | Path | None
) -> Judge | None:
    """How to get the network's part before its head; None where none is named.

    What can be wrong with the names is raised here, before the pictures are read.
    """
    if model is not None:
        if network is not None or weights is not None:
            raise InputError("--model: brings its network and weights; leave out the other options")
        loaded = load_model(model)
        recipe = Recipe().with_fields({"network": loaded.spec.name})
        return lambda _: (_before_head(loaded.network, recipe), loaded.preprocessing)
    if network is None:
        if weights is not None:
            raise InputError(f"--weights {weights}: name their --network too")
        return None
    fields = {"network": network, "weights": str(weights or "pretrained")}
    asked = with_whole_paths(load_recipe("photos").with_fields(fields))

    def pretrained(looked: Looked) -> Parts:
        recipe = complete_inputs(asked, looked.pictures)
        preprocessing = preprocessing_of(recipe)
        spec = NetworkSpec(network, 2, preprocessing.channels, preprocessing.size)
        built = build_network(spec, recipe.seed)
        load_pretrained(built, network, recipe.weights)
        built = built.to(memory_format=torch.channels_last)
        return _before_head(built, recipe), preprocessing

    return pretrained


def _before_head(network: torch.nn.Module, recipe: Recipe) -> fx.GraphModule:
    try:
        return cut_head(network, recipe).before
    except UncuttableError as error:
        raise InputError(f"{recipe.network} cannot be cut before its head ({error})") from None


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: a file stands there")
    if folder.is_dir():
        refuse_foreign(folder / "issues.csv", "--out", is_issue_table, "a table of issues")
        refuse_foreign(folder / "check.html", "--out", is_our_page, "a page of reslab's")
