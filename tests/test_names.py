"""Millions of names as one text, and what a table of pictures takes in memory."""

import os
import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawn_pictures import picture
from reslab.pictures import names as module
from reslab.pictures.content import keys_of, numbered
from reslab.pictures.files import Folder
from reslab.pictures.names import NameList, Names
from reslab.pictures.settings import Splitting
from reslab.pictures.sources import open_pictures
from reslab.pictures.splitting import complete_splits, split_notes
from reslab.pictures.table import joined

ODD = ["猫/1.png", os.fsdecode(b"\xff\xfe.png"), "", "a", "b/c d", "a", " x", "\U0001f600"]
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
SOME = st.lists(st.sampled_from(ODD) | TEXTS, max_size=12)


def test_names_are_the_texts_they_hold():
    names = Names.of(ODD)
    assert list(names) == ODD
    assert names == tuple(ODD)
    assert tuple(ODD) == names
    assert names != (*ODD[:-1], "other")
    assert names != Names.of(ODD[:-1])
    assert (names[1], names[-1], names.index("a"), "b/c d" in names) == (ODD[1], ODD[-1], 3, True)
    assert list(names[1:6:2]) == ODD[1:6:2]
    with pytest.raises(IndexError):
        names[len(ODD)]
    assert pickle.loads(pickle.dumps(names)) == names
    with pytest.raises(ValueError, match="NUL"):
        Names.of(["a\0b"])
    with pytest.raises(TypeError):
        hash(names)


@settings(max_examples=60, deadline=None)
@given(SOME, st.data())
def test_whatever_is_taken_is_what_a_tuple_gives(texts, data):
    """Also across the bounds of the parts in which names are looked at."""
    rows = st.lists(st.integers(0, max(0, len(texts) - 1)), max_size=9 if texts else 0)
    one, two = data.draw(rows), []
    if one:
        two = data.draw(st.lists(st.integers(0, len(one) - 1), max_size=9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TOGETHER", 3)
        patch.setattr(module, "_BLOCK", 4)
        names = Names.of(texts)
        taken = names.take(np.array(one, np.int64)).take(np.array(two, np.int64))
        expected = [texts[one[row]] for row in two]
        assert list(taken) == expected == [taken[row] for row in range(len(taken))]
        assert taken == Names.of(expected)
        assert (taken == names) == (expected == texts)
        assert Names.joined([names, taken]) == (*texts, *expected)
        assert names.repeated().tolist() == [texts.index(text) for text in texts]
        found = names.matching(taken)
        assert [texts[row] for row in found] == expected
        assert [expected[row] if row >= 0 else None for row in taken.matching(names)] == [
            text if text in expected else None for text in texts
        ]


def test_names_of_one_hash_are_still_told_apart(monkeypatch):
    monkeypatch.setattr(module, "_FACTOR", np.uint64(1))  # sums of letters: "ab" is "ba"
    names = Names.of(["ab", "ba", "ab", "ba", "c"])
    assert names.repeated().tolist() == [0, 1, 0, 1, 4]
    assert names.matching(Names.of(["ab", "d", "c", "bb"])).tolist() == [0, -1, 4, -1]
    assert names.matching(Names.of(["ba"]))[0] in (-1, 1)


def test_what_is_taken_shares_the_bytes():
    names = Names.of(map(str, range(1000)))
    taken = names.take(np.arange(0, 1000, 2))
    assert np.shares_memory(taken._text, names._text)
    assert names.take(np.arange(1000)) is names


def test_a_folder_is_listed_in_the_order_of_its_sorted_paths(tmp_path):
    """Folders whose names begin alike: "a-b/1" comes before "a/1", and "a" before both."""
    odd = os.fsdecode(b"\xff")
    for name in (
        "a-b/1",
        "a/1",
        "a/b-c/2",
        "a/b/2",
        "a/b.png",
        "ab",
        "猫/1",
        f"{odd}/1",
        "\ufb01/1",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = Folder(tmp_path).names()
    assert list(names) == sorted(names)
    assert len(names) == 9


def test_lists_find_their_files_in_few_and_in_full_folders(tmp_path, monkeypatch):
    from reslab.pictures import files

    (tmp_path / "a").mkdir()
    for name in ("1", "2", "3", "4"):
        (tmp_path / "a" / name).touch()
    (tmp_path / "a" / "folder").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "1")
    (tmp_path / "a" / "broken").symlink_to(tmp_path / "none")
    asked = Names.of(["a/1", "a/none", "b/1", str(tmp_path / "a" / "2"), "a/folder", "a/link",
                      "a/broken", "a/../a/3", "a"])  # fmt: skip
    expected = [True, False, False, True, False, True, False, True, False]
    for few, share in ((100, 4), (0, 0), (2, 0)):  # listed whole, not at all, and in part
        monkeypatch.setattr(files, "_FEW", few)
        monkeypatch.setattr(files, "_SHARE", share)
        assert Folder(tmp_path).holds(asked).tolist() == expected


def test_keys_are_numbered_as_numpy_would():
    drawn = np.random.default_rng(0).integers(0, 4, (2, 500)).astype(np.uint64)
    keys = keys_of(*drawn)
    _, first, same = np.unique(keys, return_index=True, return_inverse=True)
    found = numbered(keys)
    assert np.array_equal(found[0], first)
    assert np.array_equal(found[1], same)
    assert [len(part) for part in numbered(keys[:0])] == [0, 0]


ROWS = 200_000


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree of 200,000 paths: class folders that all lead to one folder, and a list of them."""
    root = tmp_path_factory.mktemp("tree")
    (root / "held").mkdir()
    for number in range(1000):
        (root / "held" / f"n{number:05d}.png").touch()
    picture(0, 0).save(root / "held" / "n00000.png")
    (root / "data").mkdir()
    for number in range(ROWS // 1000):
        (root / "data" / f"c{number:03d}").symlink_to(root / "held")
    with (root / "list.txt").open("w") as text:
        for number in range(ROWS // 1000):
            text.writelines(f"c{number:03d}/n{row:05d}.png {number}\n" for row in range(1000))
    return root


@pytest.mark.parametrize("form", ["data", "list.txt"])
def test_a_picture_takes_few_bytes_of_the_table(tree, form):
    """A str a path would be 100 bytes by itself, a tuple a row as much again."""
    root = None if form == "data" else tree / "data"
    tracemalloc.start()
    try:
        pictures = open_pictures(tree / form, root=root)
        listed = tracemalloc.get_traced_memory()[0] / ROWS
        samples = pictures.train()
        halves = np.random.default_rng(0).integers(0, 2**62, (2, ROWS)).astype(np.uint64)
        keyed = replace(pictures, splits={"train": replace(samples, keys=keys_of(*halves))})
        del pictures, samples, halves
        tracemalloc.reset_peak()
        whole, carved = complete_splits(keyed, Splitting(0.1, 0.1, 0))
        del keyed
        split_notes(whole)
        whole.fingerprint()
        held, most = (size / ROWS for size in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    assert carved == ("test", "validation")
    assert sum(whole.counts().values()) == ROWS
    assert listed < 60
    assert held < 100
    assert most < 300


def test_parts_of_a_set_are_joined_in_order(tree):
    samples = open_pictures(tree / "list.txt", root=tree / "data").train()
    keyed = replace(samples, keys=keys_of(*np.zeros((2, ROWS), np.uint64)))
    one, other = keyed.take(np.arange(3)), keyed.take(np.array([7, 5]))
    assert joined([one, other]).paths == (*one.paths, *other.paths)
    assert NameList().names() == ()
