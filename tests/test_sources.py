"""DATA in all its forms gives the same table; what it does not use is said."""

import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from drawn_pictures import CLASSES, fill, picture
from reslab.errors import InputError
from reslab.pictures import reading
from reslab.pictures.files import _member_names
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.reading import read_picture, threads_for, with_keys
from reslab.pictures.settings import Splitting
from reslab.pictures.sources import open_pictures
from reslab.pictures.splitting import complete_splits, split_notes
from reslab.pictures.store import PixelStore
from reslab.pictures.table import joined

SORTED = ("bird", "狗", "猫")


def names_of(pictures, split="train"):
    samples = pictures.splits[split]
    return {
        (path.rsplit("/", 1)[-1], pictures.classes[label])
        for path, label in zip(samples.paths, samples.labels, strict=True)
    }


def expected(count, start=0):
    return {(f"{n:03d}.png", name) for name in CLASSES for n in range(start, start + count)}


@pytest.fixture
def layouts(tmp_path):
    """The same 3 x 4 train and 3 x 2 test pictures in every form that DATA may have."""
    fill(tmp_path / "pics", 6)
    where = {"train": range(4), "test": range(4, 6)}
    split = tmp_path / "split"
    for part, numbers in where.items():
        for name in CLASSES:
            (split / part / name).mkdir(parents=True)
            for n in numbers:
                shutil.copy(tmp_path / "pics" / name / f"{n:03d}.png", split / part / name)
    lists = tmp_path / "lists dir"
    shutil.copytree(tmp_path / "pics", lists / "所有 图片")
    for part, numbers in where.items():
        lines = [
            f"所有 图片/{name}/{n:03d}.png {k}" for k, name in enumerate(CLASSES) for n in numbers
        ]
        (lists / f"{part}.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (lists / "classes.txt").write_text("\n".join(CLASSES), "utf-8")
    table = tmp_path / "table.csv"
    rows = ["path,label,split"]
    rows += [
        f"pics/{name}/{n:03d}.png,{name},{part}"
        for part, numbers in where.items()
        for name in CLASSES
        for n in numbers
    ]
    table.write_text("\n".join(rows), "utf-8-sig")
    return {"split": split, "lists": lists, "csv": table}


def zipped(folder, target):
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder.parent))
    return target


@pytest.mark.parametrize("form", ["split", "lists", "csv", "zip of split", "zip of lists"])
def test_every_form_gives_the_same_pictures(layouts, tmp_path, form):
    if form.startswith("zip"):
        data = zipped(layouts[form.removeprefix("zip of ")], tmp_path / "压缩.zip")
    else:
        data = layouts[form]
    pictures = with_keys(open_pictures(data))
    assert set(pictures.classes) == set(CLASSES)
    assert names_of(pictures) == expected(4)
    assert names_of(pictures, "test") == expected(2, start=4)
    assert pictures.counts() == {"train": 12, "validation": 0, "test": 6}
    found = pictures.splits["test"].keys
    reference = with_keys(open_pictures(layouts["split"])).splits["test"]
    assert sorted(found.tolist()) == sorted(reference.keys.tolist())


def test_a_folder_with_one_csv_of_pictures_is_that_list(layouts, tmp_path):
    folder = tmp_path / "with table"
    shutil.copytree(tmp_path / "pics", folder / "pics")
    text = layouts["csv"].read_text("utf-8-sig").replace("path,label", "Image;Class", 1)
    (folder / "labels.csv").write_text(text.replace(",", ";"), "utf-8-sig")
    (folder / "other.txt").write_text("not a list of pictures")
    assert names_of(open_pictures(folder), "test") == expected(2, start=4)
    assert open_pictures(zipped(folder, tmp_path / "t.zip")).counts()["train"] == 12


def test_a_folder_a_class_has_train_only_and_classes_in_order(photos):
    pictures = open_pictures(photos)
    assert pictures.classes == SORTED
    assert pictures.counts() == {"train": 60, "validation": 0, "test": 0}
    assert not pictures.notes


def test_a_split_column_is_heeded_wherever_the_csv_stands(layouts, tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    shutil.copytree(tmp_path / "pics", folder / "pics")
    shutil.copy(layouts["csv"], folder / "train.csv")
    found = open_pictures(folder)
    assert found.counts() == {"train": 12, "validation": 0, "test": 6}
    assert names_of(found, "test") == expected(2, start=4)
    shutil.copy(layouts["csv"], folder / "test.csv")
    with pytest.raises(InputError, match="split column"):
        open_pictures(folder)


def test_linked_folders_count_and_loops_end(photos, tmp_path):
    (photos / "鸟").symlink_to(photos / "bird")
    (photos / "猫" / "up").symlink_to(photos)
    (tmp_path / "link").symlink_to(photos)
    for folder in (photos, tmp_path / "link"):
        found = open_pictures(folder)
        assert found.classes == ("bird", "狗", "猫", "鸟")
        assert np.bincount(found.splits["train"].labels).tolist() == [20, 20, 20, 20]


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(photos, monkeypatch):
    """The tests may run as root, who may read everything: the refusal is played."""
    import os

    original = os.scandir

    def refusing(path):
        if str(path).rstrip("/").endswith("狗"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"狗.*cannot be read"):
        open_pictures(photos)


def test_class_folders_must_have_names_in_utf_8(tmp_path):
    import os

    fill(tmp_path / "d", 2)
    (tmp_path / "d" / "bird").rename(tmp_path / "d" / os.fsdecode(b"\xff\xfe"))
    with pytest.raises(InputError, match="not UTF-8"):
        open_pictures(tmp_path / "d")


def test_labels_are_never_guessed_from_what_is_present(tmp_path):
    """Indices stay indices if only some occur; names that are numbers stay names."""
    fill(tmp_path, 2)
    some = tmp_path / "some.txt"
    some.write_text("猫/000.png 1\n猫/001.png 2\n")
    found = open_pictures(some, classes=("a", "b", "c"))
    assert found.splits["train"].labels.tolist() == [1, 2]
    found = open_pictures(some, classes=("1", "2", "3"))
    assert found.splits["train"].labels.tolist() == [0, 1]
    with pytest.raises(InputError, match="label '1' is not a class"):
        open_pictures(some, classes=("3", "5"))


def test_a_zip_from_chinese_windows(tmp_path):
    """GBK names without the UTF-8 flag, as Windows' own archiver writes them."""
    stand_in = {"AA": "猫", "BB": "狗", "bird": "bird"}  # two bytes each, as in GBK
    fill(tmp_path / "x", 2, classes=tuple(stand_in))
    target = tmp_path / "gbk.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted((tmp_path / "x").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "x"))
    raw = target.read_bytes()
    for plain, name in stand_in.items():
        raw = raw.replace(f"{plain}/0".encode(), f"{name}/0".encode("gbk"))
    target.write_bytes(raw)
    assert open_pictures(target).classes == SORTED


def test_names_told_in_unicode_beside_are_taken_as_they_are():
    """From Python 3.12 on zipfile puts them in the place of the bytes, without a word."""

    def member(name, bytes_, flag=0):
        plain = bytes_.decode("cp437")
        return SimpleNamespace(filename=name or plain, orig_filename=plain, flag_bits=flag)

    names = [name.encode("gbk") for name in ("猫/1.jpg", "狗/2.jpg")]
    beside = [member("猫/1.jpg", b"?/1.jpg"), member("狗/2.jpg", names[1])]
    bare = [member(None, one) for one in names]
    for infos in (beside, bare, [beside[0], bare[1]]):
        assert _member_names(infos) == ["猫/1.jpg", "狗/2.jpg"]


def test_a_zip_with_backslashes_between_its_folders(tmp_path):
    fill(tmp_path / "x", 2)
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for path in sorted((tmp_path / "x").rglob("*.png")):
            name = str(path.relative_to(tmp_path / "x")).replace("/", "\\")
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes())
    assert open_pictures(tmp_path / "w.zip").classes == SORTED


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    fill(tmp_path / "v", 2, classes=("bus", "car", "train"))
    found = open_pictures(tmp_path / "v")
    assert found.classes == ("bus", "car", "train")
    assert found.counts()["train"] == 6


def test_files_of_mnist_that_lie_there_packed_are_unpacked(tmp_path, monkeypatch):
    """By torchvision, which downloads nothing that is there."""
    asked = []

    def noted(root, train, download):
        asked.append(download)
        raise ValueError("enough")

    monkeypatch.setattr(torchvision.datasets, "MNIST", noted)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for number, name in enumerate(("train-images-idx3", "train-labels-idx1", "t10k-images-idx3",
                                   "t10k-labels-idx1")):  # fmt: skip
        assert asked == [False] * number
        (folder / f"{name}-ubyte.gz").write_bytes(b"")
        with pytest.raises(InputError, match="incomplete or damaged"):
            open_pictures("mnist", data_root=tmp_path)
    assert asked == [False, False, False, True]


def test_numeric_class_names_are_in_the_order_of_numbers(tmp_path):
    fill(tmp_path / "n", 1, classes=("10", "9", "2"))
    assert open_pictures(tmp_path / "n").classes == ("2", "9", "10")


def test_what_is_not_used_is_said(photos):
    (photos / ".cache").mkdir()
    shutil.copy(photos / "猫" / "000.png", photos / ".cache" / "hidden.png")
    shutil.copy(photos / "猫" / "000.png", photos / "loose.png")
    (photos / "猫" / "notes.txt").write_text("x")
    (photos / "empty").mkdir()
    pictures = open_pictures(photos)
    assert pictures.counts()["train"] == 60
    assert pictures.classes == ("bird", "empty", "狗", "猫")
    notes = "\n".join(pictures.notes)
    assert "loose.png" in notes
    assert "notes.txt" in notes
    assert any("classes: empty" in note for note in split_notes(pictures))
    assert "hidden" not in notes


def test_a_split_that_lacks_a_class_keeps_the_indices(layouts):
    """Numbering the classes of each split on its own would shift every label after the gap."""
    shutil.rmtree(layouts["split"] / "test" / "bird")
    pictures = open_pictures(layouts["split"])
    assert pictures.classes == SORTED
    assert names_of(pictures, "test") == {
        (name, label) for name, label in expected(2, 4) if label != "bird"
    }
    notes = split_notes(pictures)
    assert any("test has no picture" in note and "bird" in note for note in notes)


def test_labels_as_names_indices_tabs_and_blanks(tmp_path):
    fill(tmp_path / "a b", 1)
    (tmp_path / "train.txt").write_text(
        "a b/猫/000.png\t大 猫\r\n\r\na b/狗/000.png\t狗\na b\\bird\\000.png\tbird\n", "utf-8-sig"
    )
    pictures = open_pictures(tmp_path)
    assert pictures.classes == ("bird", "大 猫", "狗")
    assert pictures.counts()["train"] == 3
    (tmp_path / "train.txt").write_text("a b/猫/000.png 7\na b/狗/000.png 12\n", "utf-8")
    assert open_pictures(tmp_path).classes == ("7", "12")


def test_companions_and_root(layouts, tmp_path):
    lists = layouts["lists"]
    alone = open_pictures(lists / "train.txt")
    assert alone.counts() == {"train": 12, "validation": 0, "test": 0}
    both = open_pictures(lists / "train.txt", test=lists / "test.txt", val=lists / "test.txt")
    assert both.counts() == {"train": 12, "validation": 6, "test": 6}
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("train.txt", "test.txt", "classes.txt"):
        shutil.move(lists / name, moved / name)
    found = open_pictures(moved / "train.txt", test=moved / "test.txt", root=lists)
    assert names_of(found) == expected(4)
    assert found.splits["train"].paths[0] == "所有 图片/猫/000.png"
    assert open_pictures(moved, root=lists).counts()["test"] == 6


def test_every_problem_of_every_list_is_reported_at_once(layouts):
    lists = layouts["lists"]
    (lists / "train.txt").write_bytes(
        "所有 图片/猫/000.png 0\n".encode()
        + "所有 图片/猫/001.png 0\n".encode("gbk")
        + "no-label.png\n所有 图片/猫/002.png 9\n所有 图片/gone.png 1\n".encode()
        + "所有 图片/狗/000.png 鸟\n".encode()
    )
    (lists / "test.txt").write_text("所有 图片/狗/001.png -1\n", "utf-8")
    with pytest.raises(InputError) as caught:
        open_pictures(lists)
    text = str(caught.value)
    for place in ("train.txt:2", "train.txt:3", "train.txt:4", "train.txt:5", "train.txt:6",
                  "test.txt:1"):  # fmt: skip
        assert place in text, text
    assert "GBK" in text
    assert len(caught.value.problems) == 6


def test_unreadable_pictures_stop_the_work_or_are_listed(photos):
    whole = (photos / "猫" / "003.png").read_bytes()
    (photos / "猫" / "003.png").write_bytes(whole[: len(whole) // 2])
    (photos / "狗" / "004.png").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        with_keys(open_pictures(photos))
    assert "003.png" in str(caught.value)
    assert "004.png" in str(caught.value)
    assert "--leave-out-unreadable" in str(caught.value)
    pictures = with_keys(open_pictures(photos), leave_out=True)
    assert pictures.counts()["train"] == 58
    assert len(pictures.left_out) == 2


def test_digits_need_nothing():
    pictures = with_keys(open_pictures("digits"))
    assert pictures.counts()["train"] == 1797
    assert pictures.splits["train"].pixels.whole().shape == (1797, 1, 8, 8)
    assert int(pictures.splits["train"].pixels.whole().max()) == 255


def test_carving_is_stratified_seeded_and_independent_of_order(photos):
    pictures = with_keys(open_pictures(photos))
    one, carved = complete_splits(pictures, Splitting(0.1, 0.2, 0))
    assert carved == ("test", "validation")
    held = pictures.splits["train"].pixels.shared  # which the splits have in common
    assert {samples.pixels.shared.data_ptr() for _, samples in one} == {held.data_ptr()}
    again = joined([samples for _, samples in one]).pixels
    assert again.shared is held
    assert torch.equal(again.whole(), torch.cat([samples.pixels.whole() for _, samples in one]))
    assert one.counts() == {"train": 43, "validation": 5, "test": 12}
    assert np.bincount(one.splits["test"].labels).tolist() == [4, 4, 4]
    again, _ = complete_splits(pictures, Splitting(0.1, 0.2, 0))
    assert again.splits["test"].paths == one.splits["test"].paths
    other, _ = complete_splits(pictures, Splitting(0.1, 0.2, 1))
    assert other.splits["test"].paths != one.splits["test"].paths
    for path in sorted((photos / "猫").iterdir()):  # another name, the same content
        path.rename(path.with_name(f"z{199 - int(path.stem)}.png"))
    renamed, _ = complete_splits(with_keys(open_pictures(photos)), Splitting(0.1, 0.2, 0))
    assert set(renamed.splits["test"].keys.tolist()) == set(one.splits["test"].keys.tolist())


def test_identical_files_stay_in_one_split(photos):
    for n in range(20):  # each picture of one class has a twin
        shutil.copy(photos / "猫" / f"{n:03d}.png", photos / "猫" / f"{n + 100:03d}.png")
    pictures = with_keys(open_pictures(photos))
    for seed in range(5):
        whole, _ = complete_splits(pictures, Splitting(0.2, 0.2, seed))
        assert not split_notes(whole)
        assert sum(whole.counts().values()) == 80
        assert 14 <= whole.counts()["test"] <= 16


def test_twins_across_given_splits_are_said(layouts):
    source = layouts["split"] / "train" / "猫" / "000.png"
    shutil.copy(source, layouts["split"] / "test" / "猫" / "copy.png")
    notes = split_notes(with_keys(open_pictures(layouts["split"])))
    assert notes == ["1 picture(s) of test stand in train too, byte for byte"]


def test_a_count_of_validation_pictures_is_met_exactly(mnist_root):
    pictures = with_keys(open_pictures("mnist", data_root=mnist_root))
    whole, carved = complete_splits(pictures, Splitting(5000, 0.2, 0))
    assert carved == ("validation",)
    assert whole.counts() == {"train": 55000, "validation": 5000, "test": 10000}
    shares = np.bincount(whole.splits["validation"].labels) / np.bincount(
        pictures.splits["train"].labels
    )
    assert np.abs(shares - 5000 / 60000).max() < 0.0002


@pytest.mark.parametrize(
    ("name", "kind", "made"), [("mnist", "MNIST", "MNIST/raw"), ("cifar10", "CIFAR10", "")]
)
def test_a_download_that_fails_leaves_nothing(tmp_path, monkeypatch, name, kind, made):
    """An empty folder would pass for damaged data, even once there is a network."""

    def offline(root, train, download):
        assert download
        (Path(root) / made).mkdir(parents=True, exist_ok=not made)
        raise URLError("no network")

    monkeypatch.setattr(torchvision.datasets, kind, offline)
    (tmp_path / "given").mkdir()
    for root in ("given", "given", "absent/too"):
        with pytest.raises(InputError, match=r"could not be downloaded \(.*no network"):
            open_pictures(name, data_root=tmp_path / root)
    assert list(tmp_path.rglob("*")) == [tmp_path / "given"]


def test_the_store_gives_what_decoding_gives(tmp_path):
    """Pictures of one size, of several sizes, and over the memory budget: the same pixels."""
    record = Preprocessing(
        size=(20, 24), mode="crop", crop_fraction=0.8, channels=3, mean=(0, 0, 0), std=(1, 1, 1)
    )
    for sizes in ([(16, 16)], [(40, 30)], [(16, 16), (40, 30), (20, 24), (9, 50)]):
        folder = tmp_path / f"{len(sizes)}-{sizes[0][0]}"
        for kind, name in enumerate(CLASSES):
            (folder / name).mkdir(parents=True)
            for number in range(6):
                image = picture(kind, number, sizes[number % len(sizes)])
                image.save(folder / name / f"{number}.png")
        samples = with_keys(open_pictures(folder)).splits["train"]
        rows = np.array([5, 0, 17, 8])
        import torch

        expected_pixels = torch.cat(
            [record.fit(read_picture(samples, row, 3)[None]) for row in rows]
        )
        for budget in (None, 0):
            found = PixelStore(samples, record).fill(budget=budget).take(torch.from_numpy(rows))
            assert torch.equal(found, expected_pixels)


@pytest.mark.parametrize(("size", "threads"), [((16, 16), 1), ((64, 64), None)])
def test_small_files_are_read_by_one_thread(tmp_path, monkeypatch, size, threads):
    """A file that cannot be read tells nothing of the others, and is told of where it is read."""
    fill(tmp_path / "pics", 6, size=size)
    pictures = open_pictures(tmp_path / "pics")
    samples = pictures.train()
    (tmp_path / "pics" / samples.paths[0]).unlink()
    rows = np.arange(len(samples))
    assert threads_for(samples, rows) is None  # so few are not worth a look
    monkeypatch.setattr(reading, "_WORTH_LOOKING", 10)
    monkeypatch.setattr(reading, "_AT_ONCE", 60.0)
    assert threads_for(samples, rows) == threads
    monkeypatch.setattr(reading, "_AT_ONCE", 0.0)  # a disk that lets wait
    assert threads_for(samples, rows) is None
    with pytest.raises(InputError, match="1 picture"):
        with_keys(pictures)
