"""What one command read, the next need not read again; what changed, it must."""

import os
import shutil
import time

import numpy as np
import pytest
import torch

import reslab
from drawn_pictures import fill, picture
from reslab.errors import InputError
from reslab.pictures import cache, decoding, reading, remembered
from reslab.pictures.cache import cache_folder
from reslab.pictures.pixel_file import PixelWriter
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.sources import open_pictures
from reslab.pictures.store import PixelStore
from reslab.pictures.table import joined

RECORD = Preprocessing(size=(20, 24), channels=3, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "WORTH_KEEPING", 1)


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A folder of pictures, read by a clock that says they were written long ago."""
    fill(tmp_path / "照片", 6)
    monkeypatch.setattr(remembered, "now", lambda: time.time_ns() + 10**10)
    return tmp_path / "照片"


@pytest.fixture
def decoded(monkeypatch):
    """How many pictures were decoded since the list was last cleared."""
    seen = []
    real = decoding.examine
    monkeypatch.setattr(decoding, "examine", lambda *given: seen.append(1) or real(*given))
    return seen


def read(folder):
    return reading.with_keys(open_pictures(folder)).splits["train"]


def test_files_that_did_not_change_are_not_read_again(settled, decoded):
    first = read(settled)
    assert len(decoded) == 18
    decoded.clear()
    again = read(settled)
    assert not decoded
    assert torch.equal(again.pixels.whole(), first.pixels.whole())
    assert np.array_equal(again.keys, first.keys)
    assert again.paths == first.paths


def test_a_changed_and_a_new_file_are_read_and_the_others_not(settled, decoded):
    first = read(settled)
    decoded.clear()
    size = (settled / "猫" / "000.png").stat().st_size
    picture(1, 77).save(settled / "猫" / "000.png")  # another picture under the same name
    shutil.copy(settled / "狗" / "001.png", settled / "狗" / "twin.png")
    changed = read(settled)
    assert len(decoded) == 2, f"it had {size} bytes"
    row = changed.paths.index("猫/000.png")
    assert changed.keys[row] != first.keys[first.paths.index("猫/000.png")]
    fresh = reading.decode((settled / "猫" / "000.png").read_bytes(), 3)
    assert torch.equal(changed.pixels.one(row), fresh)
    twins = [changed.paths.index(f"狗/{name}.png") for name in ("001", "twin")]
    assert changed.keys[twins[0]] == changed.keys[twins[1]]


def test_times_put_back_do_not_hide_a_change(settled, decoded):
    """The same size and the same modification time; only the inode's own time tells."""
    read(settled)
    path = settled / "猫" / "000.png"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(InputError, match=r"000\.png"):
        read(settled)


def test_a_new_file_in_one_split_costs_one_decoding(tmp_path, decoded, monkeypatch):
    fill(tmp_path / "d" / "train", 6)
    fill(tmp_path / "d" / "test", 3, start=50)
    monkeypatch.setattr(remembered, "now", lambda: time.time_ns() + 10**10)
    reading.with_keys(open_pictures(tmp_path / "d"))
    picture(1, 99).save(tmp_path / "d" / "train" / "猫" / "new.png")
    (tmp_path / "d" / "test" / "猫" / "050.png").write_bytes(b"no picture")
    decoded.clear()
    reading.with_keys(open_pictures(tmp_path / "d"), leave_out=True)
    assert len(decoded) == 2
    decoded.clear()
    reading.with_keys(open_pictures(tmp_path / "d"), leave_out=True)
    assert len(decoded) == 1  # the broken one, each time


def test_absolute_paths_in_a_list_are_remembered_too(settled, tmp_path, decoded):
    lines = [f"{path} {path.parent.name}" for path in sorted(settled.rglob("*.png"))]
    (tmp_path / "train.txt").write_text("\n".join(lines), "utf-8")
    read(tmp_path / "train.txt")
    decoded.clear()
    read(tmp_path / "train.txt")
    assert not decoded


def test_a_moment_of_little_memory_is_not_remembered(settled, monkeypatch):
    with monkeypatch.context() as short:
        short.setattr(reading, "memory_budget", lambda: 10)
        assert read(settled).pixels is None
    assert read(settled).pixels is not None


def test_pictures_for_which_there_is_no_memory_are_not_read_twice(settled, decoded, monkeypatch):
    monkeypatch.setenv("RESLAB_MEMORY", "1KB")
    assert reading.memory_budget() == 1000
    first = read(settled)
    assert first.pixels is None
    picture(1, 99).save(settled / "猫" / "new.png")
    decoded.clear()
    again = read(settled)
    assert len(decoded) == 1
    assert again.pixels is None
    assert set(first.keys.tolist()) < set(again.keys.tolist())


def test_a_cache_that_may_only_be_read_is_used(settled, decoded, monkeypatch):
    read(settled)
    decoded.clear()

    def refuse(*given, **more):
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    read(settled)
    assert not decoded


def test_a_file_written_just_before_is_not_trusted(tmp_path, decoded):
    fill(tmp_path / "照片", 6)
    read(tmp_path / "照片")
    decoded.clear()
    read(tmp_path / "照片")
    assert len(decoded) == 18


def test_a_damaged_table_costs_time_and_nothing_else(settled, decoded):
    first = read(settled)
    (table,) = (cache_folder() / "read").iterdir()
    whole = table.read_bytes()
    for place in (3, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        table.write_bytes(damaged)
        decoded.clear()
        assert torch.equal(read(settled).pixels.whole(), first.pixels.whole())
        assert len(decoded) == 18
        table.unlink(missing_ok=True)
        for other in (cache_folder() / "read").iterdir():
            other.unlink()
    table.write_bytes(whole[: len(whole) // 2])
    assert torch.equal(read(settled).pixels.whole(), first.pixels.whole())


def test_unreadable_files_are_named_each_time(settled):
    (settled / "猫" / "000.png").write_bytes(b"no picture")
    for _ in range(2):
        with pytest.raises(InputError, match=r"000\.png: not a picture"):
            read(settled)
        left = reading.with_keys(open_pictures(settled), leave_out=True)
        assert left.counts()["train"] == 17
        assert len(left.left_out) == 1


def test_a_cache_that_cannot_be_written_is_done_without(settled, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "file" / "below"))
    assert len(read(settled)) == 18
    store = PixelStore(mixed(tmp_path), RECORD).fill(budget=0)
    assert store.take(torch.tensor([0])).shape == (1, 3, 20, 24)


def test_the_oldest_give_way(tmp_path, monkeypatch):
    new, middle, old, another = (f"{digit * 32}.u8" for digit in "abcd")
    left_behind = f".{'e' * 32}.u8.4711.tmp"
    others = ["holiday.jpg", "notes.safetensors", left_behind]
    for age, name in enumerate((new, middle, old, *others)):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (time.time() - age - 10, time.time() - age - 10))
    (tmp_path / "folder").mkdir()
    usage = shutil.disk_usage(tmp_path)._replace(free=500)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(cache, "LEAST", 300)

    def left():
        return sorted(path.name for path in tmp_path.glob("[!.]*.u8"))

    assert cache.make_room(tmp_path / another, 100)
    assert left() == [new, middle]
    cache.keep(tmp_path / middle)
    assert cache.make_room(tmp_path / another, 300)
    assert left() == [middle]  # this process works with it
    assert not cache.make_room(tmp_path / another, 301)
    monkeypatch.setenv("RESLAB_CACHE_LIMIT", "0.2KB")
    assert not cache.make_room(tmp_path / another, 201)
    monkeypatch.delenv("RESLAB_CACHE_LIMIT")
    assert all((tmp_path / name).exists() for name in others)  # not ours to delete, or just now
    os.utime(tmp_path / left_behind, (0, 0))  # by a process long ended
    assert cache.make_room(tmp_path / another, 1)
    assert not (tmp_path / left_behind).exists()


def mixed(tmp_path):
    """Pictures of several sizes: they are not kept as they are."""
    for kind, name in enumerate(("甲", "乙")):
        (tmp_path / "mixed" / name).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            picture(kind, number, (30 + number, 40)).save(tmp_path / f"mixed/{name}/{number}.png")
    samples = read(tmp_path / "mixed")
    assert samples.pixels is None
    return samples


def test_a_store_over_its_budget_is_a_file_that_the_next_run_uses(tmp_path, decoded, monkeypatch):
    samples = mixed(tmp_path)
    rows = torch.tensor([5, 0, 7])
    expected = PixelStore(samples, RECORD).take(rows)
    assert torch.equal(PixelStore(samples, RECORD).fill(budget=0).take(rows), expected)
    (path,) = (cache_folder() / "pixels").iterdir()
    monkeypatch.setattr(PixelStore, "read", None)  # nothing is decoded any more
    again = PixelStore(samples, RECORD).fill(budget=0)
    assert torch.equal(again.take(rows), expected)
    assert path.stat().st_size == 8 * 3 * 20 * 24 + 8 * 4 + 16


def test_a_damaged_row_of_the_file_is_decoded_again(tmp_path):
    samples = mixed(tmp_path)
    rows = torch.tensor([5, 0, 7])
    expected = PixelStore(samples, RECORD).fill(budget=0).take(rows)
    (path,) = (cache_folder() / "pixels").iterdir()
    data = bytearray(path.read_bytes())
    data[100] ^= 8  # in row 0
    path.write_bytes(data)
    assert torch.equal(PixelStore(samples, RECORD).fill(budget=0).take(rows), expected)
    path.write_bytes(data[:-5])  # cut off: written anew
    assert torch.equal(PixelStore(samples, RECORD).fill(budget=0).take(rows), expected)


def test_what_is_wrong_with_a_picture_is_no_want_of_room(tmp_path):
    """Else training would meet it after hours."""
    samples = mixed(tmp_path)
    (tmp_path / "mixed" / "甲" / "2.png").write_bytes(b"no picture any more")
    with pytest.raises(InputError, match=r"2\.png"):
        PixelStore(samples, RECORD).fill(budget=0)
    assert not [path for path in (cache_folder() / "pixels").iterdir() if path.stat().st_size]


def test_another_target_is_another_file(tmp_path):
    samples = mixed(tmp_path)
    PixelStore(samples, RECORD).fill(budget=0)
    PixelStore(samples, RECORD.model_copy(update={"interpolation": "bicubic"})).fill(budget=0)
    assert len(list((cache_folder() / "pixels").iterdir())) == 2


GREY = Preprocessing(size=(12, 10), channels=1, mode="crop", mean=(0,), std=(1,))


@pytest.fixture
def no_memory(monkeypatch):
    monkeypatch.setenv("RESLAB_MEMORY", "1KB")


def pixel_files():
    """What stands in the cache's folder of pixels, hidden files too."""
    folder = cache_folder() / "pixels"
    return sorted(folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("target", [RECORD, GREY])
def test_small_pictures_beyond_the_memory_are_decoded_once(settled, decoded, monkeypatch, target):
    in_memory = read(settled)
    rows = torch.tensor([17, 0, 5, 5])
    expected = PixelStore(in_memory, target).fill().take(rows)
    shutil.rmtree(cache_folder())
    monkeypatch.setenv("RESLAB_MEMORY", "1KB")
    for count in (18, 0):  # and none by the next command
        decoded.clear()
        samples = read(settled)
        store = PixelStore(samples, target).fill()
        assert torch.equal(store.take(rows), expected)
        assert torch.equal(store.read(5), expected[2])
        assert samples.pixels is None
        assert len(decoded) == count
    assert [path.suffix for path in pixel_files()] == [".u8"]
    monkeypatch.delenv("RESLAB_MEMORY")  # and with memory for them they come from the file
    assert torch.equal(read(settled).pixels.whole(), in_memory.pixels.whole())
    assert not decoded
    (path,) = pixel_files()
    data = bytearray(path.read_bytes())
    data[800] ^= 8  # in row 1
    path.write_bytes(data)
    assert torch.equal(read(settled).pixels.whole(), in_memory.pixels.whole())
    assert len(decoded) == 1


def test_kept_pixels_go_with_their_samples(settled, decoded, no_memory):
    samples = read(settled)
    some, others = samples.take(np.array([4, 16, 2])), samples.take(np.array([7, 0]))
    decoded.clear()
    whole = PixelStore(samples, RECORD).fill()
    found = PixelStore(joined([some, others]), RECORD).fill().take(torch.arange(5))
    assert torch.equal(found, whole.take(torch.tensor([4, 16, 2, 7, 0])))
    in_memory = PixelStore(some, RECORD).fill(budget=1 << 20)
    assert torch.equal(in_memory.take(torch.arange(3)), found[:3])
    assert not in_memory.decodes
    assert not decoded


def test_samples_of_several_files_are_decoded(tmp_path, no_memory):
    for name in "ab":
        fill(tmp_path / name, 2 + (name == "b"))
    parts = [read(tmp_path / name) for name in "ab"]
    assert all(part.kept is not None for part in parts)
    assert joined(parts).kept is None


def test_a_damaged_kept_row_is_decoded_again(settled, decoded, no_memory):
    samples = read(settled)
    expected = PixelStore(samples, RECORD).take(torch.arange(18))
    (path,) = pixel_files()
    data = bytearray(path.read_bytes())
    data[800] ^= 8  # in row 1
    path.write_bytes(data)
    decoded.clear()
    assert torch.equal(PixelStore(read(settled), RECORD).take(torch.arange(18)), expected)
    assert len(decoded) == 1
    path.write_bytes(data[:-5])  # cut off: not used
    samples = read(settled)
    assert samples.kept is None
    assert torch.equal(PixelStore(samples, RECORD).fill().take(torch.arange(18)), expected)


@pytest.mark.parametrize("had", ["memory", "a file"])
def test_a_change_costs_one_decoding_beyond_the_memory_too(settled, decoded, monkeypatch, had):
    if had == "memory":
        read(settled)
    monkeypatch.setenv("RESLAB_MEMORY", "1KB")
    read(settled)
    picture(2, 99).save(settled / "猫" / "000.png")
    decoded.clear()
    samples = read(settled)
    found = PixelStore(samples, RECORD).fill().take(torch.arange(18))
    assert len(decoded) == 1
    expected = [RECORD.read((settled / path).read_bytes()) for path in samples.paths]
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("how", ["another size", "a full disk", "interrupted", "not renamed"])
def test_no_half_file_is_left(settled, monkeypatch, no_memory, how):
    def stopped(*given):
        raise KeyboardInterrupt if how == "interrupted" else OSError(28, "No space left on device")

    if how == "another size":
        picture(1, 99, (30, 20)).save(settled / "猫" / "005.png")
    else:
        place = (PixelWriter, "put") if how != "not renamed" else (os, "fsync")
        monkeypatch.setattr(*place, stopped)
    if how == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            read(settled)
    else:
        assert read(settled).kept is None
    assert not pixel_files()


def test_what_a_kill_left_half_written_goes_with_the_next_file(settled, no_memory):
    PixelWriter((5, 3, 2, 2))._new.file.close()  # as a kill does
    (left,) = pixel_files()
    os.utime(left, (0, 0))
    read(settled)
    assert [path.suffix for path in pixel_files()] == [".u8"]


def test_a_file_that_comes_to_nothing_costs_no_other(settled, tmp_path, monkeypatch, no_memory):
    fill(tmp_path / "others", 9)
    read(tmp_path / "others")
    (kept,) = pixel_files()
    monkeypatch.setattr(cache, "_in_use", set())
    monkeypatch.setenv("RESLAB_CACHE_LIMIT", str(kept.stat().st_size))
    picture(1, 99, (30, 20)).save(settled / "猫" / "005.png")
    assert read(settled).kept is None
    assert kept.exists()
    picture(1, 99).save(settled / "猫" / "005.png")
    shutil.rmtree(cache_folder() / "read")
    assert read(settled).kept is not None
    assert not kept.exists()


def test_what_is_left_out_has_no_row(settled, decoded, no_memory):
    (settled / "猫" / "005.png").write_bytes(b"no")
    for count in (18, 1):  # the next command tries it again, and no other
        decoded.clear()
        samples = reading.with_keys(open_pictures(settled), leave_out=True).splits["train"]
        found = PixelStore(samples, RECORD).fill().take(torch.arange(17))
        assert len(decoded) == count
    expected = [RECORD.read((settled / path).read_bytes()) for path in samples.paths]
    assert torch.equal(found, torch.stack(expected))


def test_a_training_beyond_the_memory_is_that_in_memory(settled, tmp_path, monkeypatch):
    def trained(name):
        run = reslab.train(settled, out=tmp_path / name, epochs=2, batch_size=8, seed=1, quiet=True)
        return run.model.read_bytes(), (run.path / "predictions.csv").read_bytes()

    expected = trained("in memory")
    monkeypatch.setenv("RESLAB_MEMORY", "1KB")
    shutil.rmtree(cache_folder())
    assert trained("from a file") == expected
    assert len(pixel_files()) == 1
