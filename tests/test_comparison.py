"""Runs side by side: more than luck or not, and never on different pictures."""

import itertools
import json
import math
import shutil
import sys

import numpy as np
import pytest

import reslab
from drawn_pictures import fill
from reslab.cli import main
from reslab.errors import InputError
from reslab.judging.comparison import corrected, mcnemar, paired
from reslab.run.folder import open_run
from reslab.run.listing import list_runs

SETTINGS = {"batch_size": 16, "quiet": True, "epochs": 2}


@pytest.mark.parametrize(("one", "other"), [*itertools.product(range(0, 12, 3), range(0, 12, 4))])
def test_mcnemar_is_a_fair_coin(one, other):
    """By adding up, exactly, all counts that are no likelier."""
    n = one + other
    chance = [math.comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(each for each in chance if each <= chance[one] * (1 + 1e-9))
    assert mcnemar(one, other) == pytest.approx(expected)


def test_a_pair_by_hand():
    first = np.array([True] * 80 + [False] * 20)
    second = np.array([True] * 70 + [False] * 10 + [True] * 15 + [False] * 5)
    found = paired(first, second)
    assert (found.n, found.first_only, found.second_only) == (100, 10, 15)
    assert found.difference == pytest.approx(0.05)
    low, high = found.interval
    # Of a difference of two counts out of n, by its variance.
    spread = math.sqrt((25 / 100 - 0.05**2) / 100)
    assert low == pytest.approx(0.05 - 1.96 * spread, abs=0.015)
    assert high == pytest.approx(0.05 + 1.96 * spread, abs=0.015)


def test_equal_networks_are_seldom_called_different():
    """1,000 pairs of networks of one accuracy that err on different pictures."""
    source = np.random.default_rng(0)
    alarms = sum(
        paired(source.random(500) < 0.8, source.random(500) < 0.8).p_value < 0.05
        for _ in range(1000)
    )
    assert 10 < alarms <= 50


def test_holms_correction():
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([0.9, 0.8]) == [1.0, 1.0]


@pytest.fixture(scope="module")
def other(split_photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("other") / "另一个"
    return reslab.train(split_photos, out=out, seed=2, **SETTINGS)


def command(words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reslab", *map(str, words)])
    main()
    return capsys.readouterr().out


def test_compare_says_what_differs_and_by_how_much(run, other, capsys, monkeypatch):
    found = json.loads(command(["compare", run.path, other.path, "--json"], capsys, monkeypatch))
    assert [each["run"] for each in found["runs"]] == [str(run.path), str(other.path)]
    (pair,) = found["pairs"]
    assert pair["difference"] == pytest.approx(other.test["accuracy"] - run.test["accuracy"])
    assert pair["interval"][0] <= pair["difference"] <= pair["interval"][1]
    assert 0 <= pair["p_value"] <= 1
    assert found["differences"] == {"seed": [1, 2], "epochs": [8, 2]}
    said = command(["compare", run.path, other.path], capsys, monkeypatch)
    assert "p = " in said
    assert "epochs" in said


def test_what_pictures_runs_learned_from_is_a_difference_too(run, other, tmp_path):
    """As after `--without`: their recipes and their test pictures are the same."""
    shutil.copytree(other.path, tmp_path / "fewer")
    fewer = open_run(tmp_path / "fewer")
    counts = fewer.info["counts"] | {"train": 60}
    gone = [f"{number}.png" for number in range(5)]
    fewer.write_info(counts=counts, without=gone, fingerprint="of others", data="photos")
    assert reslab.compare([other.path, fewer.path]).differences == {
        "data": (other.info["data"], "photos"),
        "fingerprint": (other.info["fingerprint"], "of others"),
        "counts.train": (65, 60),
        "without": (0, 5),
    }


def test_samples_of_the_test_pictures_are_not_paired_by_place(other, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(other.path, tmp_path / name)
        table = tmp_path / name / "predictions.csv"
        table.write_text(table.read_text("utf-8").replace(".png", f"-{name}.png"), "utf-8")
    reslab.compare([tmp_path / "one", tmp_path / "two"])  # files that were renamed
    for name in ("one", "two"):
        sampled = open_run(tmp_path / name)
        sampled.write_info(test=sampled.test | {"of": 100})
    with pytest.raises(InputError, match="was not scored on the test pictures"):
        reslab.compare([tmp_path / "one", tmp_path / "two"])


def test_other_test_pictures_are_refused(run, other, tmp_path):
    fill(tmp_path / "d" / "train", 12)
    fill(tmp_path / "d" / "test", 8, start=300)
    foreign = reslab.train(tmp_path / "d", out=tmp_path / "r", seed=1, **SETTINGS)
    with pytest.raises(InputError, match="was not scored on the test pictures"):
        reslab.compare([run.path, foreign.path])
    fill(tmp_path / "e" / "train", 12, classes=("a", "b"))
    fill(tmp_path / "e" / "test", 8, classes=("a", "b"))
    strange = reslab.train(tmp_path / "e", out=tmp_path / "s", seed=1, **SETTINGS)
    with pytest.raises(InputError, match="its classes are not those"):
        reslab.compare([run.path, strange.path])
    with pytest.raises(InputError, match="two runs or more"):
        reslab.compare([run.path])
    cut = (foreign.path / "predictions.csv").read_bytes().splitlines(keepends=True)
    (foreign.path / "predictions.csv").write_bytes(b"".join(cut[:-1]))
    with pytest.raises(InputError, match=r"23 rows, \d+ of them right, where run\.json counts 24"):
        reslab.compare([foreign.path, foreign.path])
    for damage in (b"a,b,c,d\n", b'"' + b"x" * 200_000):  # longer than a field may be
        (foreign.path / "predictions.csv").write_bytes(b"".join([*cut[:3], damage]))
        with pytest.raises(InputError, match=r"predictions\.csv:4: no row"):
            reslab.compare([foreign.path, foreign.path])
    (foreign.path / "predictions.csv").write_bytes(damage)
    with pytest.raises(InputError, match=r"predictions\.csv:1: no table"):
        reslab.compare([foreign.path, foreign.path])


def test_a_table_that_was_sorted_since_is_put_in_order(run, other, tmp_path):
    """As a spreadsheet's user does; a picture is known by its path."""
    expected = reslab.compare([run.path, other.path]).pairs[0].paired
    shutil.copytree(other.path, tmp_path / "sorted")
    table = tmp_path / "sorted" / "predictions.csv"
    header, *rows = table.read_text("utf-8").splitlines(keepends=True)
    table.write_text(header + "".join(sorted(rows, key=lambda row: row.split(",")[-1])), "utf-8")
    assert reslab.compare([run.path, tmp_path / "sorted"]).pairs[0].paired == expected
    same = reslab.compare([other.path, tmp_path / "sorted"]).pairs[0]
    assert (same.paired.first_only, same.paired.second_only) == (0, 0)
    assert same.verdict == "too_few"
    table.write_text(header + "".join(rows).replace("狗", "狼"), "utf-8")
    with pytest.raises(InputError, match=r"predictions\.csv:\d+: no row of this run"):
        reslab.compare([run.path, tmp_path / "sorted"])


def test_a_run_that_goes_on_is_not_compared(run, other, tmp_path):
    shutil.copytree(other.path, tmp_path / "going")
    open_run(tmp_path / "going").write_info(status="interrupted")
    with pytest.raises(InputError, match="not finished"):
        reslab.compare([run.path, tmp_path / "going"])
    with pytest.raises(InputError, match="two runs or more"):
        reslab.compare(str(run.path))


def test_runs_are_listed_newest_first(run, other, tmp_path, capsys, monkeypatch):
    for number, each in enumerate((run, other)):
        place = tmp_path / "runs" / f"r{number}"
        (tmp_path / "runs").mkdir(exist_ok=True)
        place.symlink_to(each.path)
    (tmp_path / "runs" / "mine").mkdir()
    (tmp_path / "runs" / "mine" / "run.json").write_text("{}")
    found = list_runs(tmp_path / "runs")
    expected = sorted((run, other), key=lambda each: each.info["began"], reverse=True)
    assert [each.info["id"] for each in found.runs] == [each.info["id"] for each in expected]
    assert len(found.problems) == 1
    monkeypatch.chdir(tmp_path)
    table = json.loads(command(["runs", "--json"], capsys, monkeypatch))
    assert [row["test_accuracy"] for row in table["runs"]] == [
        each.test["accuracy"] for each in expected
    ]
    said = command(["runs", "runs"], capsys, monkeypatch)
    assert said.splitlines()[0].startswith("began")
    assert "runs/r1" in said
    with pytest.raises(InputError, match="no folder of runs"):
        list_runs(tmp_path / "absent")


def test_a_run_of_0_1_0_is_listed_by_the_age_of_its_recipe(run, tmp_path):
    info = json.loads((run.path / "run.json").read_text("utf-8"))
    del info["began"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text(json.dumps(info))
    (tmp_path / "old" / "recipe.toml").write_bytes((run.path / "recipe.toml").read_bytes())
    assert [each.path for each in list_runs(tmp_path).runs] == [tmp_path / "old"]
    assert open_run(tmp_path / "old").source == run.source
