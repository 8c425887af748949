"""Predictions as a table, and photos sorted by them: nothing lost, nothing replaced."""

import csv
import os
import shutil
import subprocess
import sys

import pytest

import reslab
from drawn_pictures import CLASSES, fill
from reslab.cli import main
from reslab.errors import InputError
from reslab.using.prediction import Guess, Prediction
from reslab.using.sorting import copy_into_class, refuse_unsortable
from reslab.using.tables import is_prediction_table, write_table


def command(words, capsys, monkeypatch):
    """(exit status, standard output, standard error) of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["reslab", *map(str, words)])
    capsys.readouterr()
    try:
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code
    return status, *capsys.readouterr()


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_a_picture(run, split_photos, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "新照片"
    fill(folder, 3, start=700)
    (folder / "bird" / "broken.png").write_bytes(b"no picture")
    table = tmp_path / "表.csv"
    words = ["predict", run.path, folder, "--csv", table, "--top", "2", "--coverage", "0.8",
             "--unknown-below", "0.97"]  # fmt: skip
    status, _, said = command(words, capsys, monkeypatch)
    assert status == 2
    assert "broken.png" in said
    rows = rows_of(table)
    assert len(rows) == 10
    names = list(rows[0])
    assert names == ["path", "label", "probability", "error", "likeliest", "label_2",
                     "probability_2", "set"]  # fmt: skip
    classifier = reslab.Classifier.load(run.path)
    for row in rows:
        if row["path"].endswith("broken.png"):
            assert "not a picture" in row["error"]
            assert not row["label"]
            continue
        found = classifier.predict(row["path"], 2, coverage=0.8, unknown_below=0.97)
        assert row["label"] == found.label
        assert row["likeliest"] == found.top[0].label
        assert float(row["probability"]) == pytest.approx(found.probability, rel=1e-6)
        assert row["label_2"] == found.top[1].label
        assert row["set"].split(" | ") == list(found.set)
        assert not row["error"]
    words = ["predict", run.path, folder / "bird" / "700.png", "--csv", table]
    assert command(words, capsys, monkeypatch)[0] == 0  # ours is replaced
    (tmp_path / "mine.csv").write_text("path,size\n")
    status, _, said = command([*words[:-1], tmp_path / "mine.csv"], capsys, monkeypatch)
    assert status == 2
    assert "is not a table of predictions" in said


def test_a_table_of_odd_names_is_read_back(tmp_path):
    found = [Prediction('a,"b"\n.png', "=1+1", 0.5, (Guess("=1+1", 0.5),)), InputError("line\nend"),
             InputError("carriage\rreturn")]  # fmt: skip
    write_table(tmp_path / "t.csv", ['a,"b"\n.png', "b\udcff.png", "we\rird"], found, 5)
    assert is_prediction_table((tmp_path / "t.csv").read_bytes())
    with (tmp_path / "t.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ['a,"b"\n.png', "b\udcff.png", "we\rird"]
    assert [row["error"] for row in rows] == ["", "line\nend", "carriage\rreturn"]
    guesses = tuple(Guess(f"a long name of class {number}", 0.01) for number in range(100))
    write_table(tmp_path / "wide.csv", ["a"], [Prediction("a", "b", 0.1, guesses)], 100)
    assert is_prediction_table((tmp_path / "wide.csv").read_bytes()[:1024])


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_photos_are_copied_into_the_folders_of_their_classes(
    run, split_photos, tmp_path, capsys, monkeypatch
):
    before = snapshot(split_photos)
    target = tmp_path / "sorted"
    words = ["predict", run.path, split_photos / "test", "--copy-to", target]
    assert command(words, capsys, monkeypatch)[0] == 0
    assert snapshot(split_photos) == before
    placed = snapshot(target)
    assert len(placed) == 24
    assert {path.parent.name for path in placed} <= set(CLASSES)
    classifier = reslab.Classifier.load(run.path)
    for path in placed:
        assert classifier.predict(path).label == path.parent.name
    # Once more: what lies there already is that very copy.
    assert command(words, capsys, monkeypatch)[0] == 0
    assert snapshot(target) == placed
    assert not [path for path in target.rglob("*") if path.name.startswith(".")]
    doubts = [*words[:-1], tmp_path / "doubts", "--unknown-below", "1"]
    assert command(doubts, capsys, monkeypatch)[0] == 0
    assert len(list((tmp_path / "doubts" / "unknown").iterdir())) == 24


@pytest.mark.skipif(os.name == "nt", reason="there names are no bytes")
def test_a_picture_whose_name_is_not_utf_8_is_copied_too(
    run, split_photos, tmp_path, capsys, monkeypatch
):
    (tmp_path / "p").mkdir()
    name = os.fsdecode("猫.png".encode("gbk"))
    (tmp_path / "p" / name).write_bytes((split_photos / "test" / "bird" / "100.png").read_bytes())
    words = ["predict", run.path, tmp_path / "p", "--copy-to", tmp_path / "sorted"]
    assert command(words, capsys, monkeypatch)[0] == 0
    assert [path.name for path in snapshot(tmp_path / "sorted")] == [name]


def test_a_reader_that_has_seen_enough_costs_no_row_and_no_copy(run, split_photos, tmp_path):
    """As `| head -1` does: here the pipe is closed before anything is written."""
    words = ["predict", run.path, split_photos / "test", "--csv", tmp_path / "t.csv",
             "--copy-to", tmp_path / "sorted", "--json"]  # fmt: skip
    status, said = unread(words)
    assert (status, said) == (0, "")
    assert len(rows_of(tmp_path / "t.csv")) == 24
    assert len(snapshot(tmp_path / "sorted")) == 24


@pytest.mark.parametrize("wrong", [False, True])
def test_what_nobody_reads_at_the_end_is_no_error(run, split_photos, tmp_path, wrong):
    """Words that are still in a buffer when the command ends."""
    shutil.copytree(split_photos / "test", tmp_path / "p")
    if wrong:
        (tmp_path / "p" / "bird" / "broken.png").write_bytes(b"no picture")
    status, said = unread(["predict", run.path, tmp_path / "p", "--top", "1"])
    assert status == 2 * wrong
    assert ("broken.png" in said) == wrong
    assert "BrokenPipeError" not in said


def unread(words):
    """(exit status, standard error) of a command whose output nobody reads."""
    buffered = {name: of for name, of in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reads, writes = os.pipe()
    os.close(reads)
    ended = subprocess.run(
        [sys.executable, "-m", "reslab", *map(str, words)], env=buffered, stdout=writes,
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writes)
    return ended.returncode, ended.stderr


def test_what_stands_there_is_never_replaced(tmp_path):
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.jpg").write_bytes(b"%d" % number)
    target = tmp_path / "t"
    placed = [copy_into_class(tmp_path / str(n) / "a.jpg", "cat", target) for n in range(3)]
    assert [path.name for path in placed] == ["a.jpg", "a (2).jpg", "a (3).jpg"]
    assert [path.read_bytes() for path in placed] == [b"0", b"1", b"2"]
    assert copy_into_class(tmp_path / "1" / "a.jpg", "cat", target) == placed[1]
    (target / "cat" / "b.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.jpg").write_bytes(b"b")
    assert copy_into_class(tmp_path / "b.jpg", "cat", target).name == "b (2).jpg"
    assert not (tmp_path / "nowhere").exists()
    assert copy_into_class(placed[0], "cat", target) == placed[0]  # it lies there itself


def test_a_copy_that_fails_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"whole")

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        copy_into_class(tmp_path / "a.jpg", "cat", tmp_path / "t")
    assert list((tmp_path / "t" / "cat").iterdir()) == []


def test_without_links_a_copy_is_whole_and_replaces_nothing(tmp_path, monkeypatch):
    def absent(*given):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", absent)
    long = "很" * 82 + ".jpg"  # 250 bytes, as many as a name may have
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_bytes(folder.encode())
        os.utime(tmp_path / folder / "a.jpg", (1e9, 1e9))
    (tmp_path / long).write_bytes(b"long")
    placed = [copy_into_class(tmp_path / f / "a.jpg", "cat", tmp_path / "t") for f in "ab"]
    assert [path.name for path in placed] == ["a.jpg", "a (2).jpg"]
    assert [path.read_bytes() for path in placed] == [b"a", b"b"]
    assert placed[0].stat().st_mtime == 1e9
    assert copy_into_class(tmp_path / long, "cat", tmp_path / "t").name == long
    assert len(list((tmp_path / "t" / "cat").iterdir())) == 3


def test_a_picture_that_cannot_be_copied_does_not_stop_the_others(
    run, split_photos, tmp_path, capsys, monkeypatch
):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "猫").write_text("a file in the folder's place")
    words = ["predict", run.path, split_photos / "test", "--copy-to", tmp_path / "t",
             "--csv", tmp_path / "t.csv"]  # fmt: skip
    status, _, said = command(words, capsys, monkeypatch)
    assert status == 2
    rows = rows_of(tmp_path / "t.csv")
    failed = [row for row in rows if row["label"] == "猫"]  # of which the table tells all the same
    assert 0 < len(failed) < len(rows) == 24
    assert not any(row["error"] for row in rows)
    assert f"of 24 picture(s) 0 cannot be read and {len(failed)} not be copied" in said
    assert f"{failed[0]['path']}: " in said
    assert len(list((tmp_path / "t").rglob("*.png"))) == 24 - len(failed)


@pytest.mark.parametrize("name", ["a/b", "..", ".", "x" * 300])
def test_classes_that_no_folder_can_be_called_are_refused(name, tmp_path):
    with pytest.raises(InputError, match="names of classes that no folder can have"):
        refuse_unsortable(tmp_path / "t", ("a", name))
    assert not (tmp_path / "t").exists()


def test_odd_targets_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for target, why in ((tmp_path / "file", "a file stands"), (tmp_path / "no" / "t", "no folder")):
        with pytest.raises(InputError, match=why):
            refuse_unsortable(target, ("a", "b"))
    # Without --unknown-below nothing is in doubt, and any class is its own folder.
    assert refuse_unsortable(tmp_path / "t", ("a", "unknown")) == tmp_path / "t"
