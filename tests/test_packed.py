"""Pictures packed in tar shards, Parquet and saved datasets: the same training as of a folder."""

import io
import json
import os
import shutil
import sys
import tarfile
import time

import numpy as np
import pytest
import torch

import reslab
from drawn_pictures import CLASSES, fill
from packing import add, rows_of, table_of, write_parquet, write_saved, write_shards
from reslab.errors import InputError
from reslab.networks.model_file import read_tensors
from reslab.pictures import parquet, remembered, shards
from reslab.pictures.data_source import DataSource
from reslab.pictures.packs import pictures_of
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.reading import with_keys
from reslab.pictures.sources import open_pictures
from reslab.pictures.store import PixelStore

SORTED = tuple(sorted(CLASSES))
FORMS = ("shards", "json shards", "Parquet", "saved")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The same pictures in every form: {form: path}, and the "folder" that they came from."""
    root = tmp_path_factory.mktemp("打包")
    fill(root / "folder" / "train", 12)
    fill(root / "folder" / "test", 4, start=50)
    rows = {split: rows_of(root / "folder" / split) for split in ("train", "test")}
    for split, of in rows.items():
        write_shards(root / "shards" / split, of)
        write_shards(root / "json shards" / f"set-{split}", of, label="json")
        half = len(of) // 2
        for part, some in enumerate((of[:half], of[half:])):
            name = f"{split}-{part:05d}-of-00002.parquet"
            write_parquet(root / "Parquet" / "data" / name, some, SORTED)
    write_saved(root / "saved", rows, SORTED)
    return {path.name: path for path in root.iterdir()}


def trained(data, out):
    run = reslab.train(
        data, out=out, seed=3, epochs=1, batch_size=16, quiet=True, precision="fp32",
        fields={"preprocess.size": 16},
    )  # fmt: skip
    weights = read_tensors(run.model)[0]
    return run, weights


def test_the_same_weights_bit_for_bit_as_of_the_folder(packed, tmp_path):
    folder, expected = trained(packed["folder"], tmp_path / "folder")
    for form in ("shards", "Parquet", "saved"):
        run, weights = trained(packed[form], tmp_path / form)
        assert run.info["fingerprint"] == folder.info["fingerprint"], form
        assert run.info["arrangement"] == folder.info["arrangement"], form
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected), form
        predictions = (run.path / "predictions.csv").read_bytes()
        assert predictions == (folder.path / "predictions.csv").read_bytes(), form


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_table(packed, form):
    expected = with_keys(open_pictures(packed["folder"]))
    found = with_keys(open_pictures(packed[form]))
    assert found.classes == expected.classes
    for split in ("train", "test"):
        one, other = found.splits[split], expected.splits[split]
        assert one.paths == other.paths
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.keys, other.keys)
        assert torch.equal(one.pixels.whole(), other.pixels.whole())
        assert one.files.read(one.paths[3]) == other.files.read(other.paths[3])
        assert one.files.has(one.paths[0])
        assert not one.files.has("train/猫/none.png")
        assert one.files.holds(one.paths).all()


@pytest.mark.parametrize("form", ["shards", "Parquet"])
def test_a_store_over_its_budget_reads_in_the_packs_order_and_gives_the_samples(
    packed, form, tmp_path, monkeypatch
):
    record = Preprocessing(size=(20, 24), channels=3, mean=(0, 0, 0), std=(1, 1, 1))
    stores = []
    for data in (packed["folder"], packed[form]):
        monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / data.name))  # a file of pixels each
        samples = with_keys(open_pictures(data)).splits["train"]
        without = type(samples)(samples.paths, samples.labels, samples.files, keys=samples.keys)
        stores.append(PixelStore(without, record).fill(budget=0))
    rows = torch.tensor([5, 0, 35, 8])
    monkeypatch.setattr(PixelStore, "read", None)  # a row in a wrong place would be decoded again
    assert torch.equal(stores[0].take(rows), stores[1].take(rows))
    places = samples.files.nearby(samples.paths)
    assert sorted(places.tolist()) == list(range(len(samples)))
    assert places.tolist() != list(range(len(samples)))


def test_an_index_is_made_once_and_again_for_a_changed_shard(packed, tmp_path, monkeypatch):
    made = []
    real = shards._index
    monkeypatch.setattr(shards, "_index", lambda *given: made.append(1) or real(*given))
    rows = rows_of(packed["folder"] / "train")
    write_shards(tmp_path / "s" / "all", rows)
    first = open_pictures(tmp_path / "s")
    assert len(made) == 6
    again = open_pictures(tmp_path / "s")
    assert len(made) == 6
    assert again.splits["train"].paths == first.splits["train"].paths
    assert np.array_equal(again.splits["train"].labels, first.splits["train"].labels)
    assert with_keys(again).fingerprint() == with_keys(first).fingerprint()
    shard = tmp_path / "s" / "all-000.tar"
    os.utime(shard, (1, 1))
    open_pictures(tmp_path / "s")
    assert len(made) == 12
    shard.write_bytes(shard.read_bytes() + bytes(10240))
    with pytest.raises(InputError, match=r"all-000\.tar:.*changed since"):
        with_keys(first)


def test_a_damaged_word_in_an_index_is_no_other_class(packed, tmp_path):
    assert open_pictures(packed["shards"]).classes == SORTED
    for index in (tmp_path / "cache" / "shards").glob("*.safetensors"):  # of each split
        whole = index.read_bytes()
        head = 8 + int.from_bytes(whole[:8], "little")
        assert b"bird" in whole[:head]
        index.write_bytes(whole[:head].replace(b"bird", b"bIrd") + whole[head:])
    assert open_pictures(packed["shards"]).classes == SORTED


def test_what_was_read_of_shards_is_remembered(packed, monkeypatch):
    from reslab.pictures import reading

    monkeypatch.setattr(remembered, "WORTH_KEEPING", 1)
    monkeypatch.setattr(remembered, "now", lambda: time.time_ns() + 10**10)
    first = with_keys(open_pictures(packed["shards"]))
    monkeypatch.setattr(reading, "decode", None)
    again = with_keys(open_pictures(packed["shards"]))
    assert again.fingerprint() == first.fingerprint()


def test_braces_companions_and_resuming_elsewhere(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(packed["shards"])
    data, test = "train-{000..005}.tar", "test-{000..001}.tar"
    source = DataSource.named(data, {"test": test})
    assert source.data == str(packed["shards"] / data)
    monkeypatch.chdir(tmp_path)
    assert source.open().counts() == {"train": 36, "validation": 0, "test": 12}
    assert open_pictures(packed["shards"] / data).counts()["train"] == 36
    alone = open_pictures(packed["Parquet"] / "data" / "test-{00000..00001}-of-00002.parquet")
    assert alone.counts() == {"train": 0, "validation": 0, "test": 12}
    with pytest.raises(InputError, match=r"1 of 7 files are not there:\n.*train-006\.tar"):
        open_pictures(packed["shards"] / "train-{000..006}.tar")
    with pytest.raises(InputError, match="counts from 5 to 0"):
        open_pictures(packed["shards"] / "train-{005..000}.tar")


def test_keys_that_several_shards_share_are_told_apart(packed, tmp_path):
    rows = rows_of(packed["folder"] / "train")
    for number, (_, data, kind) in enumerate(rows):
        with tarfile.open(tmp_path / f"{number // 6:02d}.tar", "a") as shard:
            add(shard, f"{number % 6:03d}.png", data)
            add(shard, f"{number % 6:03d}.cls", kind.encode())
    found = with_keys(open_pictures(tmp_path / "{00..05}.tar"))
    assert len(set(found.train().paths)) == 36
    expected = with_keys(open_pictures(packed["folder"] / "train"))
    assert found.fingerprint() == expected.fingerprint()


def test_numbers_with_a_class_file_are_its_classes(packed, tmp_path):
    rows = [(name, data, str(SORTED.index(kind)))
            for name, data, kind in rows_of(packed["folder"] / "train")]  # fmt: skip
    write_shards(tmp_path / "s" / "a", rows)
    assert open_pictures(tmp_path / "s").classes == ("0", "1", "2")
    (tmp_path / "s" / "classes.txt").write_text("\n".join(SORTED), "utf-8")
    found = with_keys(open_pictures(tmp_path / "s"))
    expected = with_keys(open_pictures(packed["folder"] / "train"))
    assert found.fingerprint() == expected.fingerprint()
    assert found.arrangement() == expected.arrangement()
    (tmp_path / "s" / "classes.txt").write_text("a\nb\n", "utf-8")
    with pytest.raises(InputError, match=r"a-000\.tar:2/\d+\.png: label 2 is out of range"):
        open_pictures(tmp_path / "s")


@pytest.fixture(scope="module")
def png(packed):
    return next(packed["folder"].rglob("*.png")).read_bytes()


def link(shard, name, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    shard.addfile(info)


def twice(shard, png):
    add(shard, "a.png", png)
    add(shard, "a.png", png)
    add(shard, "a.cls", b"x")


HOSTILE = {
    "no path inside": lambda shard, png: add(shard, "../../a.png", png),
    "no path inside ": lambda shard, png: add(shard, "/etc/a.png", png),
    "no path inside the": lambda shard, png: add(shard, "a/../../b.png", png),
    "a link": lambda shard, png: link(shard, "a.png", tarfile.SYMTYPE),
    "a link; shards": lambda shard, png: link(shard, "a.png", tarfile.LNKTYPE),
    "neither a file": lambda shard, png: link(shard, "a.png", tarfile.FIFOTYPE),
    "twice": twice,
    "no label: a.cls": lambda shard, png: add(shard, "a.png", png),
    "and a.png; a key has one": lambda shard, png: [
        add(shard, "a.png", png), add(shard, "a.jpg", png), add(shard, "a.cls", b"x")],
    "not UTF-8": lambda shard, png: [add(shard, "a.png", png), add(shard, "a.cls", b"\xff\xfe")],
    "no label; JSON": lambda shard, png: [add(shard, "a.png", png), add(shard, "a.json", b"{}")],
    "or no JSON": lambda shard, png: [add(shard, "a.png", png), add(shard, "a.json", b"[" * 9000)],
    "a NUL": lambda shard, png: [add(shard, "a.png", png), add(shard, "a.cls", b"x\0y")],
    "a label without a picture": lambda shard, png: add(shard, "b.cls", b"x"),
    "a label without a picture, or": lambda shard, png: [
        add(shard, "b.jxl", png), add(shard, "b.json", b'{"label": 1}')],
    "so no label": lambda shard, png: [
        add(shard, "a.png", png), add(shard, "a.cls", bytes(2 << 20))],
    "out of range": lambda shard, png: [add(shard, "a.png", png), add(shard, "a.cls", b"-1")],
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_members_are_named_and_nothing_outside_is_read(what, png, tmp_path, monkeypatch):
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as shard:
        add(shard, "good.png", png)
        add(shard, "good.cls", b"x")
        HOSTILE[what](shard, png)
    opened = []
    sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
    with pytest.raises(InputError, match=f"bad.tar:.*{what.strip()}"):
        open_pictures(path)
    assert not [name for name in opened if name.startswith("/etc")]


def whole_tar(png, **facts):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as shard:
        for number in range(4):
            add(shard, f"{number}.png", png, **facts)
            add(shard, f"{number}.cls", b"x" if number % 2 else b"y")
    return held.getvalue()


def test_damaged_shards_are_refused_wherever_they_end(png, tmp_path):
    """tarfile itself ends in silence at a damaged header, and where the end is missing."""
    data = whole_tar(png)
    path = tmp_path / "cut.tar"
    path.write_bytes(data)
    assert open_pictures(path).counts()["train"] == 4
    end = len(data.rstrip(b"\0"))
    for kept in (*range(0, end, 512), *range(100, end, 700), end):
        path.write_bytes(data[:kept])
        with pytest.raises(InputError, match=r"cut\.tar"):
            open_pictures(path)
    for place in range(0, end - 512, 512):
        if data[place + 257 : place + 262] == b"ustar":  # a header
            path.write_bytes(data[: place + 20] + b"\x01" + data[place + 21 :])
            with pytest.raises(InputError, match=r"cut\.tar"):
                open_pictures(path)
    path.write_bytes(data + whole_tar(png))
    with pytest.raises(InputError, match="more after its end"):
        open_pictures(path)
    with tarfile.open(path, "w:gz") as shard:
        add(shard, "a.png", png)
    with pytest.raises(InputError, match="compressed"):
        open_pictures(path)


def test_a_sparse_member_is_refused(png, tmp_path):
    header = tarfile.TarInfo("a.png")
    header.size = len(png)
    header.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1",
                          "GNU.sparse.map": f"0,{len(png)}", "GNU.sparse.size": "4096"}  # fmt: skip
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as shard:
        shard.addfile(header, io.BytesIO(png))
        add(shard, "a.cls", b"x")
    with pytest.raises(InputError, match=r"s\.tar:a\.png: a sparse file"):
        open_pictures(tmp_path / "s.tar")


def test_a_broken_picture_in_a_shard_is_named_or_left_out(packed, tmp_path):
    rows = rows_of(packed["folder"] / "train")
    write_shards(tmp_path / "s" / "a", [*rows, ("bad.png", b"no picture", "猫")])
    with pytest.raises(InputError, match=r"a-005\.tar:猫/bad\.png: not a picture"):
        with_keys(open_pictures(tmp_path / "s"))
    assert with_keys(open_pictures(tmp_path / "s"), leave_out=True).counts()["train"] == 36


def test_what_is_held_of_parquet_files_is_bounded_over_all_of_them(packed, monkeypatch):
    monkeypatch.setattr(parquet, "_groups", parquet._Groups())
    monkeypatch.setattr(parquet, "_HELD", 0)
    monkeypatch.setattr(parquet, "_OPEN", 1)
    for path in sorted((packed["Parquet"] / "data").iterdir()):
        found = pictures_of(path)
        assert all(found.read(name) for name in found.names())
        assert len(parquet._groups._held) == len(parquet._groups._opened) == 1


def test_a_parquet_file_that_is_written_anew_is_read_anew(packed, tmp_path):
    path = tmp_path / "a.parquet"
    rows = [row for row in rows_of(packed["folder"] / "test") if row[2] == SORTED[0]]
    for row in rows[:2]:
        write_parquet(path, [row], SORTED)
        found = pictures_of(path)
        assert found.read(found.names()[0]) == row[1]
        time.sleep(0.01)


def test_a_parquet_file_that_is_replaced_after_it_was_listed_lends_no_label(packed, tmp_path):
    """Neither to other pictures, nor to none."""
    path = tmp_path / "train.parquet"
    rows = rows_of(packed["folder"] / "train")
    for others in (rows[::-1], rows[:3]):
        write_parquet(path, rows, SORTED)
        found = open_pictures(path)
        time.sleep(0.01)
        write_parquet(path, others, SORTED)
        with pytest.raises(InputError, match="has changed since it was listed"):
            with_keys(found)


def test_names_that_stand_twice_in_parquet_are_refused(packed, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = rows_of(packed["folder"] / "train")
    table = table_of(rows, SORTED)
    pq.write_table(table.append_column("label", table["label"]), tmp_path / "train.parquet")
    with pytest.raises(InputError, match="several columns are called label"):
        open_pictures(tmp_path / "train.parquet")
    about = json.loads(table.schema.metadata[b"huggingface"])
    about["info"]["features"]["label"]["names"][1] = SORTED[0]
    told = table.replace_schema_metadata({b"huggingface": json.dumps(about).encode()})
    pq.write_table(pa.table(told), tmp_path / "train.parquet")
    with pytest.raises(InputError, match="more than once"):
        open_pictures(tmp_path / "train.parquet")


def test_braces_may_stand_for_folders(packed, tmp_path):
    tars = sorted(packed["shards"].glob("train-*.tar"))[:2]
    for number, path in enumerate(tars):
        (tmp_path / f"part{number}").mkdir()
        shutil.copy(path, tmp_path / f"part{number}" / "train.tar")
    both = open_pictures(tmp_path / "part{0..1}" / "train.tar")
    each = [open_pictures(tmp_path / f"part{number}" / "train.tar") for number in range(2)]
    assert len(both.splits["train"]) == sum(len(one.splits["train"]) for one in each)


def test_a_row_without_bytes_of_a_picture_is_named(packed, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    png = next(packed["folder"].rglob("*.png")).read_bytes()
    rows = [{"bytes": png, "path": "a.png"}, None]
    pq.write_table(pa.table({"image": rows, "label": [0, 0]}), tmp_path / "train.parquet")
    files = open_pictures(tmp_path / "train.parquet").splits["train"].files
    read = {name: len(png) if "a.png" in name else None for name in files.names()}
    for name, size in read.items():
        if size:
            assert len(files.read(name)) == size
        else:
            with pytest.raises(OSError, match="holds no bytes of a picture"):
                files.read(name)


def test_files_that_do_not_tell_their_split_are_refused(packed, tmp_path):
    rows = rows_of(packed["folder"] / "train")
    for name in ("train", "extra"):
        write_shards(tmp_path / "s" / name, rows)
    with pytest.raises(InputError, match=r"extra-000\.tar.*do not tell their split"):
        open_pictures(tmp_path / "s")
    write_parquet(tmp_path / "s" / "train.parquet", rows, SORTED)
    for path in (tmp_path / "s").glob("extra*"):
        path.unlink()
    with pytest.raises(InputError, match="both tar shards and Parquet"):
        open_pictures(tmp_path / "s")


def test_damaged_parquet_and_saved_datasets(packed, tmp_path):
    rows = rows_of(packed["folder"] / "train")
    write_parquet(tmp_path / "p.parquet", rows, SORTED)
    data = (tmp_path / "p.parquet").read_bytes()
    (tmp_path / "p.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"p\.parquet: not a readable parquet file"):
        open_pictures(tmp_path / "p.parquet")
    write_saved(tmp_path / "saved", {"train": rows}, SORTED)
    arrow = tmp_path / "saved" / "train" / "data-00000-of-00001.arrow"
    data = arrow.read_bytes()
    arrow.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"\.arrow: not a readable arrow file"):
        open_pictures(tmp_path / "saved")
    state = tmp_path / "saved" / "train" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../../elsewhere.arrow"}]}))
    with pytest.raises(InputError, match="names no data files in its folder"):
        open_pictures(tmp_path / "saved")


def test_columns_and_labels_of_parquet_that_are_not_there(packed, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    _, png, _ = rows_of(packed["folder"] / "train")[0]
    path = tmp_path / "p.parquet"

    def opened(**columns):
        pq.write_table(pa.table(columns), path)
        return open_pictures(path)

    found = opened(image=pa.array([png, png]), label=["b", "a"])  # plain bytes and texts
    assert found.classes == ("a", "b")
    with pytest.raises(InputError, match="no column of labels among image"):
        opened(image=pa.array([png]), other=[1])
    with pytest.raises(InputError, match="no column of pictures among label, other"):
        opened(label=[1], other=[1])
    with pytest.raises(InputError, match="row 1 has no label: None"):
        opened(image=pa.array([png, png]), label=["b", None])
    with pytest.raises(InputError, match="label -1 is out of range"):
        opened(image=pa.array([png, png]), label=[1, -1])
    with pytest.raises(InputError, match=r"p\.parquet:group 0, row 1 .*holds no bytes"):
        with_keys(opened(image=pa.array([png, None]), label=["a", "b"]))


def test_without_pyarrow_the_command_to_type_is_told(packed, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'reslab\[tables\]'"):
        open_pictures(packed["Parquet"])
