"""The doctor: what it finds is wrong, what it does not is well, and it touches nothing."""

import csv
import hashlib
import io
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

import reslab
from browser import axe_findings, chromium, opened
from reslab.checking.labels import doubts
from reslab.cli import run_command
from reslab.errors import InputError
from reslab.pictures.copies.pairs import groups_of, near_pairs
from reslab.pictures.data_source import DataSource
from reslab.pictures.issue_table import HEADER
from reslab.pictures.settings import Splitting
from reslab.pictures.splitting import complete_splits, dealt

CLASSES = ("面条", "soup", "蛋糕")


def scene(number, size=(120, 160)):
    """A picture that has something everywhere: noise of several grains, (height, width)."""
    rng = np.random.default_rng([7, number])
    layers = np.zeros((*size, 3), np.float32)
    for grain in (3, 6, 12, 24, 48):
        noise = rng.integers(0, 256, (grain, grain, 3), np.uint8)
        layer = Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC)
        layers += np.asarray(layer, np.float32) / grain**0.4
    layers -= layers.min()
    return Image.fromarray((255 * layers / layers.max()).astype(np.uint8))


def jpeg(path, picture, **options):
    picture.save(path, "JPEG", quality=options.pop("quality", 92), **options)


def captioned(picture):
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    pen.rectangle((0, picture.height - 16, picture.width, picture.height), fill="white")
    pen.text((4, picture.height - 14), "my dinner", fill="red")
    return drawn


WAYS = {
    "recompressed": lambda p, to: jpeg(to, p, quality=35),
    "smaller": lambda p, to: jpeg(to, p.resize((88, 66))),
    "cropped": lambda p, to: jpeg(to, p.crop((2, 9, 146, 117))),
    "brighter": lambda p, to: jpeg(to, ImageEnhance.Brightness(p).enhance(1.3)),
    "flatter": lambda p, to: jpeg(to, ImageEnhance.Contrast(p).enhance(0.7)),
    "mirrored": lambda p, to: jpeg(to, ImageOps.mirror(p)),
    "turned": lambda p, to: jpeg(to, p.rotate(5, Image.Resampling.BICUBIC)),
    "captioned": lambda p, to: jpeg(to, captioned(p)),
    "bordered": lambda p, to: jpeg(to, ImageOps.expand(p, 9, "black")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Lists of 3 classes of 20, with copies: in train, and of train in test."""
    root = tmp_path_factory.mktemp("check") / "我的 数据"
    root.mkdir()
    train, test = [], []
    for number in range(60):
        jpeg(root / f"{number}.jpg", scene(number))
        (train if number < 45 else test).append(f"{number}.jpg {CLASSES[number % 3]}")
    for number, (way, make) in enumerate(WAYS.items()):
        make(scene(number), root / f"{way}.jpg")
        train.append(f"{way}.jpg {CLASSES[number % 3]}")
    (root / "bytes.jpg").write_bytes((root / "20.jpg").read_bytes())
    Image.open(root / "21.jpg").save(root / "pixels.png")
    test += [f"bytes.jpg {CLASSES[20 % 3]}", f"pixels.png {CLASSES[21 % 3]}"]
    (root / "conflict.jpg").write_bytes((root / "22.jpg").read_bytes())
    train.append(f"conflict.jpg {CLASSES[23 % 3]}")
    (root / "train.txt").write_text("\n".join(train) + "\n", "utf-8")
    (root / "test.txt").write_text("\n".join(test) + "\n", "utf-8")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", "utf-8")
    return root


@pytest.fixture(scope="module")
def checked(folder, tmp_path_factory):
    return reslab.check(folder, out=tmp_path_factory.mktemp("out") / "结果", quiet=True)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def named(checked, kind):
    return {row["path"]: row for row in rows_of(checked.path) if row["kind"] == kind}


def state_of(folder):
    """Every file's content and times."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- copies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_near_copies_are_found_however_they_were_made(checked, way):
    original = f"{list(WAYS).index(way)}.jpg"
    pairs = {frozenset((path, row["other"])) for path, row in named(checked, "near-copy").items()}
    assert frozenset((f"{way}.jpg", original)) in pairs


def test_nothing_else_is_a_copy(checked):
    assert len(named(checked, "near-copy")) == len(WAYS)
    exact = named(checked, "exact-copy")
    assert {frozenset((path, row["other"])) for path, row in exact.items()} == {
        frozenset(pair)
        for pair in [("20.jpg", "bytes.jpg"), ("21.jpg", "pixels.png"), ("22.jpg", "conflict.jpg")]
    }
    assert all(float(row["score"]) == 1 for row in exact.values())


def test_leaks_name_what_is_learned_from(checked):
    leaks = named(checked, "leak")
    assert {(path, row["split"], row["other"]) for path, row in leaks.items()} == {
        ("20.jpg", "train", "bytes.jpg"),
        ("21.jpg", "train", "pixels.png"),
    }
    # Of copies the one in test is kept, so what goes is in train.
    assert {"20.jpg", "21.jpg"} < set(named(checked, "exact-copy"))


def test_copies_whose_labels_disagree_are_both_named(checked):
    found = named(checked, "conflicting-copy")
    assert {path: row["label"] for path, row in found.items()} == {
        "22.jpg": CLASSES[1],
        "conflict.jpg": CLASSES[2],
    }


def test_pairs_are_the_same_in_any_order_and_from_the_cache(folder, monkeypatch):
    samples = DataSource.named(folder).read().splits["train"]
    once = near_pairs(samples)
    backwards = samples.take(np.arange(len(samples))[::-1])
    monkeypatch.setattr("reslab.pictures.copies.pairs.thumbs_of", None)  # nothing is read again
    again = near_pairs(backwards)
    names = {
        frozenset(samples.paths[row] for row in pair)
        for pair in zip(once.first, once.second, strict=True)
    }
    others = {
        frozenset(backwards.paths[row] for row in pair)
        for pair in zip(again.first, again.second, strict=True)
    }
    assert len(names) == len(WAYS)
    assert names == others


def test_pairs_that_were_kept_and_damaged_are_found_anew(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    samples = DataSource.named(folder).read().splits["train"]
    once = near_pairs(samples)
    (path,) = (tmp_path / "cache" / "copies").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    again = near_pairs(samples)
    for name in ("first", "second", "share"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(near_pairs(samples), name), getattr(once, name))
    assert once.share.dtype == np.float32
    assert once.share.min() >= 0.5


def test_near_copies_stay_in_one_split_when_one_is_carved(folder):
    pictures = DataSource.named(folder / "train.txt").read()
    train = pictures.splits["train"]
    group = dict(zip(train.paths, groups_of(train, near_pairs(train)).tolist(), strict=True))
    torn = 0
    for seed in range(6):
        for together in ("near", "identical"):
            whole, _ = complete_splits(pictures, Splitting(0.2, 0.3, seed, together))
            homes: dict[int, set[str]] = {}
            for name, samples in whole:
                for path in samples.paths:
                    homes.setdefault(group[path], set()).add(name)
            apart = sum(len(splits) > 1 for splits in homes.values())
            if together == "near":
                assert apart == 0
            torn += apart
    assert torn > 0  # without it they are torn apart


def test_train_keeps_near_copies_together_and_notes_conflicts(folder, tmp_path):
    recipe = reslab.load_recipe("photos")
    assert recipe.split.together == "near"
    run = reslab.train(
        folder / "train.txt", recipe="small-resnet", out=tmp_path / "run", epochs=1, quiet=True,
        fields={"split.together": "near", "preprocess.size": "16"},
    )  # fmt: skip
    assert any("under different labels" in note for note in run.info["notes"])
    tested = {row["path"] for row in rows_of(run.path / "predictions.csv")}
    for number, way in enumerate(WAYS):
        assert (f"{way}.jpg" in tested) == (f"{number}.jpg" in tested)


# --- files and oddities ------------------------------------------------------------------------


@pytest.fixture
def odd_folder(tmp_path):
    root = tmp_path / "odd"
    for number in range(60):
        place = root / CLASSES[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        jpeg(place / f"{number}.jpg", scene(number))
    return root / CLASSES[0]


def turned(path):
    marks = Image.Exif()
    marks[0x0112] = 6
    jpeg(path, scene(104), exif=marks)


ODD = {
    "tiny": lambda to: jpeg(to, scene(100).resize((12, 9))),
    "extreme shape": lambda to: jpeg(to, scene(101, (30, 200))),
    "nearly one colour": lambda to: jpeg(to, Image.new("RGB", (160, 120), (90, 120, 60))),
    "dark": lambda to: jpeg(to, scene(102).point(lambda level: level * 0.1)),
    "blown out": lambda to: jpeg(to, scene(103).point(lambda level: 225 + level * 0.1)),
    "blurred": lambda to: jpeg(to, scene(104).filter(ImageFilter.GaussianBlur(6))),
    "grey among colour": lambda to: jpeg(to, scene(105).convert("L")),
    "turned by its EXIF mark": turned,
}


@pytest.mark.parametrize("what", ODD)
def test_odd_pictures_are_named_and_why(odd_folder, tmp_path, what):
    ODD[what](odd_folder / "odd.jpg")
    found = reslab.check(odd_folder.parent, out=tmp_path / "out", quiet=True)
    odd = [row for row in rows_of(found.path) if row["kind"] == "odd"]
    assert [row["path"] for row in odd] == [f"{CLASSES[0]}/odd.jpg"] * len(odd)
    assert what in {row["other"].partition(":")[0] for row in odd}


def test_what_all_pictures_are_is_not_odd(tmp_path):
    for number in range(60):
        place = tmp_path / "grey" / CLASSES[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        jpeg(place / f"{number}.jpg", scene(number).convert("L").resize((20, 15)))
    found = reslab.check(tmp_path / "grey", out=tmp_path / "out", quiet=True)
    assert found.counts["odd"] == 0


def test_files_that_cannot_be_read_and_types_that_are_others(odd_folder, tmp_path):
    whole = (odd_folder / "0.jpg").read_bytes()
    (odd_folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (odd_folder / "empty.jpg").write_bytes(b"")
    (odd_folder / "text.png").write_text("no picture")
    scene(200).save(odd_folder / "really.jpg", "PNG")
    found = reslab.check(odd_folder.parent, out=tmp_path / "out", quiet=True)
    unread = named(found, "unreadable")
    assert {path.rpartition("/")[2] for path in unread} == {"cut.jpg", "empty.jpg", "text.png"}
    assert all(row["other"] for row in unread.values())
    mismatched = named(found, "mismatched-type")
    assert {(path, row["other"]) for path, row in mismatched.items()} == {
        (f"{CLASSES[0]}/really.jpg", "PNG")
    }
    assert found.pictures == 64


def test_the_set_few_unequal_and_drawn_otherwise(tmp_path):
    counts = {"train": (60, 5, 40), "test": (5, 1, 60)}
    number = 0
    for split, each in counts.items():
        for label, count in zip(CLASSES, each, strict=True):
            place = tmp_path / "set" / split / label
            place.mkdir(parents=True)
            for _ in range(count):
                jpeg(place / f"{number}.jpg", scene(number, (24, 32)))
                number += 1
    found = reslab.check(tmp_path / "set", out=tmp_path / "out", quiet=True)
    said = [(row["split"], row["label"], row["other"]) for row in rows_of(found.path)]
    assert ("train", "soup", "only 5 pictures") in said
    assert ("train", "soup", "60 pictures of 面条, 5 of soup") in said
    assert any(split == "test" and "drawn otherwise" in other for split, _, other in said)


def test_a_shortcut_that_a_network_would_learn(odd_folder, tmp_path):
    for number in range(300, 330):
        jpeg(odd_folder / f"{number}.jpg", scene(number, (240, 320)))
    for path in odd_folder.iterdir():
        if int(path.stem) < 300:
            path.unlink()
    found = reslab.check(odd_folder.parent, out=tmp_path / "out", quiet=True)
    said = [(row["label"], row["other"]) for row in rows_of(found.path) if row["kind"] == "set"]
    assert (CLASSES[0], "100% are of 320x240 pixels, 0% of the other classes") in said


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"kinds": True}, "kinds = True: should be text"),
        ({"test": True}, "test = True: should be a path"),
        ({"leave_out_unreadable": "no"}, "should be true or false"),
    ],
)
def test_options_of_another_type_are_told(folder, option, said):
    with pytest.raises(InputError, match=said):
        reslab.check(folder, quiet=True, **option)


# --- labels and outliers -----------------------------------------------------------------------


def test_flipped_labels_are_doubted_and_copies_do_not_vouch_for_each_other():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 60)
    centres = 5 * np.eye(4, 12)
    features = centres[labels] + 0.6 * rng.normal(size=(240, 12))
    wrong = rng.choice(240, 12, replace=False)
    given = labels.copy()
    given[wrong] = (given[wrong] + 1) % 4
    # Each wrong one has a copy under the same wrong label: by that it would be believed.
    features = torch.from_numpy(np.concatenate([features, features[wrong]])).float()
    given = np.concatenate([given, given[wrong]])
    groups = np.concatenate([np.arange(240), wrong])
    found = doubts(features, given, groups, 4)
    worst = set(np.argsort(-found.score)[:24].tolist())
    assert len(worst & {*wrong.tolist(), *range(240, 252)}) >= 23
    assert (found.suggested[wrong] == labels[wrong]).mean() > 0.9


def test_folds_keep_copies_together_and_classes_apart():
    labels = np.repeat(np.arange(3), 10)
    groups = np.arange(30)
    groups[[1, 2, 11, 12]] = [0, 0, 10, 10]
    fold = dealt(labels, groups, np.arange(30, dtype=np.uint64), 5, 0)
    assert fold[0] == fold[1] == fold[2]
    assert fold[10] == fold[11] == fold[12]
    for label in range(3):
        assert set(fold[labels == label]) == set(range(5))


def test_a_class_of_one_picture_is_not_judged():
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(21, 4))).float()
    found = doubts(features, np.array([0] * 10 + [1] * 10 + [2]), np.arange(21), 3)
    assert found.judged.tolist() == [True] * 20 + [False]


def test_pictures_without_anything_to_see_are_no_copies(tmp_path):
    for number in range(30):
        place = tmp_path / "plain" / CLASSES[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (number * 5, 90, 20)).save(place / f"{number}.png")
    found = reslab.check(tmp_path / "plain", out=tmp_path / "out", quiet=True)
    assert found.counts["near-copy"] == found.counts["exact-copy"] == 0
    whole, _ = complete_splits(
        DataSource.named(tmp_path / "plain").read(), Splitting(0.2, 0.2, 0, "near")
    )
    assert whole.counts()["train"] < 30


def test_small_pictures_are_alike_by_chance(tmp_path):
    found = reslab.check("digits", out=tmp_path / "out", quiet=True)
    assert found.counts["near-copy"] == found.counts["leak"] == 0


def test_forms_of_one_kind_are_not_called_copies(tmp_path):
    form = scene(0)
    for number in range(60):
        place = tmp_path / "forms" / CLASSES[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        filled = form.copy()
        filled.paste(scene(number + 1).resize((40, 20)), (20, 20))
        jpeg(place / f"{number}.jpg", filled)
    found = reslab.check(tmp_path / "forms", out=tmp_path / "out", quiet=True)
    assert found.counts["near-copy"] == found.counts["conflicting-copy"] == 0
    assert any("so alike" in row["other"] for row in rows_of(found.path))


def test_a_thousand_identical_pictures_are_one(tmp_path):
    data = scene(0, (30, 40)).tobytes()
    for number in range(1000):
        place = tmp_path / "same" / CLASSES[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (40, 30), data).save(place / f"{number}.bmp")
    found = reslab.check(tmp_path / "same", out=tmp_path / "out", quiet=True)
    assert found.counts["exact-copy"] == 999
    assert found.counts["conflicting-copy"] == 1000


def test_of_a_clear_majority_the_others_are_named(tmp_path):
    for number, label in enumerate((0, 0, 0, 1)):
        place = tmp_path / "most" / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        jpeg(place / f"{number}.jpg", scene(0))
    found = reslab.check(tmp_path / "most", out=tmp_path / "out", quiet=True)
    (row,) = named(found, "conflicting-copy").values()
    assert (row["path"], row["suggested"]) == (f"{CLASSES[1]}/3.jpg", CLASSES[0])


@pytest.mark.parametrize("near", [False, True])
def test_of_a_clear_majority_one_is_kept(tmp_path, near):
    """Though a copy of another label is the first, and the largest."""
    folder = tmp_path / "most"
    for number, label in enumerate((0, 1, 1)):
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        size = (96, 72) if near and number else scene(0).size
        jpeg(place / f"{number}.jpg", scene(0).resize(size))
    for number in range(1, 9):
        jpeg(folder / CLASSES[number % 2] / f"other{number}.jpg", scene(number))
    lists = tmp_path / "lists"
    reslab.check(folder, out=tmp_path / "out", write_lists=lists, quiet=True)
    kept = (lists / "train.txt").read_text("utf-8").splitlines()
    copies = [line for line in kept if "other" not in line]
    assert [line.rpartition("/")[2].split() for line in copies] == [["1.jpg", CLASSES[1]]]


@pytest.mark.parametrize("near", [False, True])
def test_an_outvoted_copy_that_chooses_gives_way_to_those_that_are_learned_from(tmp_path, near):
    for number, split in enumerate(("val", "train", "train")):
        size = (96, 72) if near and split == "val" else scene(0).size
        jpeg(tmp_path / f"{number}.jpg", scene(0).resize(size))
        with (tmp_path / f"{split}.txt").open("a") as lines:
            lines.write(f"{number}.jpg {'a' if split == 'val' else 'b'}\n")
    for number in range(1, 9):
        jpeg(tmp_path / f"other{number}.jpg", scene(number))
        with (tmp_path / ("val.txt" if number > 6 else "train.txt")).open("a") as lines:
            lines.write(f"other{number}.jpg {'ab'[number % 2]}\n")
    lists = tmp_path / "lists"
    reslab.check(
        tmp_path / "train.txt", val=tmp_path / "val.txt", out=tmp_path / "out",
        write_lists=lists, quiet=True,
    )  # fmt: skip
    kept = [
        line.split()[0].rpartition("/")[2]
        for split in ("val", "train")
        for line in (lists / f"{split}.txt").read_text().splitlines()
    ]
    assert [name for name in kept if "other" not in name] == ["1.jpg"]


def test_a_habit_of_folders_is_not_that_of_the_classes_own(tmp_path):
    """Nested folders are no shortcut; one above those of the classes is."""
    for number in range(24):
        label = CLASSES[number % 2]
        for root in ("nested", "sites"):
            session = f"session{number // 12}"
            place = tmp_path / root / (f"{label}/{session}" if root == "nested" else f"{label}1")
            if root == "sites":
                place = place / label
            place.mkdir(parents=True, exist_ok=True)
            jpeg(place / f"{number}.jpg", scene(number))
    for root, expected in (("nested", []), ("sites", sorted(CLASSES[:2]))):
        paths = sorted((tmp_path / root).rglob("*.jpg"))
        lines = [f"{path.relative_to(tmp_path)} {CLASSES[int(path.stem) % 2]}" for path in paths]
        (tmp_path / f"{root}.txt").write_text("\n".join(lines) + "\n")
        found = reslab.check(tmp_path / f"{root}.txt", out=tmp_path / f"of-{root}", quiet=True)
        habits = [issue for issue in found.issues if issue.finding == "habit_folder"]
        assert sorted(issue.label for issue in habits) == expected, root


def test_a_path_that_stands_twice_loses_one(tmp_path):
    for number in range(6):
        jpeg(tmp_path / f"{number}.jpg", scene(number))
    lines = [f"{number}.jpg {'ab'[number % 2]}" for number in (0, 1, 2, 3, 4, 5, 1, 1)]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    lists = tmp_path.parent / f"{tmp_path.name}-lists"
    found = reslab.check(tmp_path / "train.txt", out=lists / "out", write_lists=lists, quiet=True)
    left = DataSource.named(tmp_path / "train.txt", {"without": found.path}).open()
    assert len(left.without) == found.cleaned == found.counts["exact-copy"] == 2
    assert [left.splits["train"].paths[row] for row in range(6)] == [f"{n}.jpg" for n in range(6)]


def test_with_a_network_labels_and_outliers_are_judged(split_photos, weights, tmp_path):
    options = {"network": "resnet18", "weights": weights, "quiet": True}
    found = reslab.check(split_photos, out=tmp_path / "out", **options)
    assert found.not_judged == ()
    without = reslab.check(split_photos, out=tmp_path / "other", quiet=True)
    assert without.not_judged == ("label", "outlier")
    assert {key: without.counts[key] for key in ("leak", "odd")} == {
        key: found.counts[key] for key in ("leak", "odd")
    }


def test_a_run_is_a_network_too(run, split_photos, tmp_path):
    found = reslab.check(split_photos, model=run.path, out=tmp_path / "out", quiet=True)
    assert found.not_judged == ()


# --- what is written ---------------------------------------------------------------------------


def test_no_file_is_touched(folder, tmp_path):
    before = state_of(folder)
    reslab.check(folder, out=tmp_path / "out", write_lists=tmp_path / "lists", quiet=True)
    assert state_of(folder) == before


def test_the_table_and_json(folder, tmp_path, capsys):
    run_command(["check", str(folder), "--out", str(tmp_path / "out"), "--quiet", "--json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    text = (tmp_path / "out" / "issues.csv").read_text("utf-8")
    assert text.splitlines()[0] == ",".join(HEADER)
    assert said["pictures"] == 72
    assert said["path"] == str(tmp_path / "out" / "issues.csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    counted = Counter(row["kind"] for row in rows)
    assert {kind: count for kind, count in said["issues"].items() if count} == dict(counted)
    assert rows[0]["kind"] == "leak"


def test_the_verdict_is_short_and_leaks_come_first(folder, tmp_path, capsys):
    run_command(["check", str(folder), "--out", str(tmp_path / "out"), "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["leak", "2"]
    assert len(lines) < 12


def test_cleaned_lists_train_without_what_is_wrong(folder, tmp_path):
    lists = tmp_path / "清单"
    found = reslab.check(folder, out=tmp_path / "out", write_lists=lists, quiet=True)
    again = reslab.check(lists, out=tmp_path / "again", quiet=True)
    wrong = {"leak", "conflicting-copy", "exact-copy", "near-copy"}
    assert {kind: again.counts[kind] for kind in wrong} == dict.fromkeys(wrong, 0)
    assert again.pictures == found.pictures - found.cleaned
    assert (lists / "classes.txt").read_text("utf-8").split() == list(CLASSES)
    reasons = rows_of(lists / "reasons.csv")
    assert {row["path"] for row in reasons} >= {"20.jpg", "22.jpg", "conflict.jpg"}
    assert all(row["line"].rpartition(":")[0].endswith(f"{row['split']}.txt") for row in reasons)
    leak = next(row for row in reasons if row["kind"] == "leak" and row["path"] == "20.jpg")
    assert leak["line"].endswith("train.txt:21")


def test_cleaned_lists_lead_out_of_a_folder_behind_a_link(folder, tmp_path):
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "down")
    lists = tmp_path / "link" / "lists"
    reslab.check(folder, out=tmp_path / "out", write_lists=lists, quiet=True)
    assert DataSource.named(lists).open().counts()["train"]


def test_classes_that_are_numbers_are_listed_so_that_they_train(tmp_path):
    for number in range(12):
        place = tmp_path / "d" / str(1 + number % 3)
        place.mkdir(parents=True, exist_ok=True)
        jpeg(place / f"{number}.jpg", scene(number))
    reslab.check(tmp_path / "d", out=tmp_path / "out", write_lists=tmp_path / "l", quiet=True)
    found = DataSource.named(tmp_path / "l").open()
    assert found.classes == ("1", "2", "3")
    assert found.counts()["train"] == 12
    (tmp_path / "d" / "4").mkdir()  # a class without pictures, which no list can name
    with pytest.raises(InputError, match="called by numbers"):
        reslab.check(tmp_path / "d", out=tmp_path / "out", write_lists=tmp_path / "m", quiet=True)
    assert not (tmp_path / "m").exists()


def test_what_cannot_be_read_is_among_the_reasons_whatever_kinds_are_named(tmp_path):
    for number in range(8):
        jpeg(tmp_path / f"{number}.jpg", scene(number))
    (tmp_path / "8.jpg").write_bytes(b"no picture")
    lines = [f"{number}.jpg {'ab'[number % 2]}" for number in range(9)]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    lists = tmp_path.parent / f"{tmp_path.name}-lists"
    found = reslab.check(tmp_path / "train.txt", out=lists / "out", write_lists=lists,
                         kinds="near-copy", quiet=True)  # fmt: skip
    assert found.cleaned == 1
    assert [row["path"] for row in rows_of(lists / "reasons.csv")] == ["8.jpg"]
    assert len((lists / "train.txt").read_text().splitlines()) == 8


def test_train_without_what_is_named(folder, checked, tmp_path):
    options = {"recipe": "small-resnet", "out": tmp_path / "run", "epochs": 1, "quiet": True}
    fields = {"preprocess.size": "16", "schedule.name": "constant"}
    run = reslab.train(folder, without=checked.path, kinds="leak", fields=fields, **options)
    assert len(run.info["without"]) == 2
    assert run.info["counts"]["train"] + run.info["counts"]["validation"] == 53
    assert any(line == "train: 20.jpg: leak (bytes.jpg)" for line in run.info["without"])
    assert sum("left out by issues.csv" in note for note in run.info["notes"]) == 1
    resumed = reslab.resume(run.path, epochs=2, quiet=True)
    assert resumed.info["counts"] == run.info["counts"]


def test_a_test_split_stays_whole_unless_kinds_are_named(folder, tmp_path):
    table = tmp_path / "issues.csv"
    table.write_text(
        f"{','.join(HEADER)}\n50.jpg,test,x,label,0.9,,\n1.jpg,train,x,label,0.9,,\n"
        "2.jpg,train,x,odd,0.9,dark,\n",
        "utf-8",
    )
    by_default = DataSource.named(folder, {"without": table}).open()
    assert by_default.without == ("train: 1.jpg: label",)
    named_ones = DataSource.named(folder, {"without": table, "kinds": "label,odd"}).open()
    assert len(named_ones.without) == 3
    assert any("stood in test" in note for note in named_ones.notes)


@pytest.mark.parametrize(
    ("text", "kinds", "said"),
    [
        ("path,label\na,b\n", None, ":1: no table of issues"),
        (f"{','.join(HEADER)}\na,train,x,lable,1,,\n", None, ":2: kind 'lable' is unknown"),
        (f"{','.join(HEADER)}\na,trian,x,label,1,,\n", None, ":2: split 'trian' is unknown"),
        (f"{','.join(HEADER)}\na,train,x\n", None, ":2: 3 fields"),
        (f"{','.join(HEADER)}\nabsent.jpg,train,x,label,1,,\n", None, "names no picture"),
        (f"{','.join(HEADER)}\n1.jpg,train,x,label,1,,\n", "lable", "'lable' is no kind"),
        (f"{','.join(HEADER)}\n1.jpg,train,x,label,1,,\n", ",", "name at least one"),
    ],
)
def test_a_table_that_is_wrong_is_told(folder, tmp_path, text, kinds, said):
    table = tmp_path / "issues.csv"
    table.write_text(text, "utf-8")
    source = DataSource.named(folder, {"without": table} | ({"kinds": kinds} if kinds else {}))
    with pytest.raises(InputError, match=said):
        source.open()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weights", "w.pth"], "name their --network too"),
        (["--model", "RUN", "--network", "resnet18"], "brings its network"),
        (["--out", "DATA/inside"], "lies inside the data"),
        (["--kinds", "label,wrong", "--write-lists", "lists"], "no kind of issue"),
        (["--kinds", "label"], "goes with --without"),
        (["--write-lists", "DATA"], "lies inside the data"),
        (["--write-lists", "DATA/inside"], "lies inside the data"),
        (["--network", "resnet19"], "resnet19"),
    ],
)
def test_what_is_wrong_with_the_command_is_told(folder, run, tmp_path, words, said):
    places = {"DATA": str(folder), "RUN": str(run.path)}
    words = [places.get(word, word.replace("DATA", str(folder))) for word in words]
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match=said):
        run_command(["check", str(folder), "--quiet", *out, *words])


def test_lists_cannot_name_what_is_in_no_folder(tmp_path):
    with pytest.raises(InputError, match="unpack it first"):
        reslab.check("digits", out=tmp_path / "out", write_lists=tmp_path / "l", quiet=True)


def test_what_is_not_ours_is_not_written_over(folder, tmp_path):
    (tmp_path / "issues.csv").write_text("mine")
    with pytest.raises(InputError, match="is not a table of issues"):
        reslab.check(folder, out=tmp_path, quiet=True)
    assert (tmp_path / "issues.csv").read_text() == "mine"


# --- the page ----------------------------------------------------------------------------------


def test_the_page_shows_pictures_side_by_side(checked):
    text = checked.page.read_text("utf-8")
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert text.count('class="pair"') == 9 + 3 + 2 + 2
    assert "train.txt:21" in text  # where the leak was listed
    assert "划分之间的泄漏" in text
    assert "Leaks between splits" in text


def test_hostile_names_do_nothing(tmp_path):
    name = "<img src=x onerror=alert(1)>"
    place = tmp_path / "data" / name.replace("/", "")
    place.mkdir(parents=True)
    (tmp_path / "data" / "b").mkdir()
    for number in range(4):
        jpeg(place / f"{number}.jpg", scene(0))
        jpeg(tmp_path / "data" / "b" / f"{number}.jpg", scene(number))
    found = reslab.check(tmp_path / "data", out=tmp_path / "out", quiet=True)
    assert "<img src=x" not in found.page.read_text("utf-8")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_reads_well_everywhere(checked, width, scheme):
    with chromium() as browser:
        size = {"width": width, "height": 900}
        with opened(browser, checked.page.as_uri(), viewport=size, color_scheme=scheme) as page:
            assert axe_findings(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.troubles == []
            assert {url.partition(":")[0] for url in page.urls} <= {"file", "data"}
