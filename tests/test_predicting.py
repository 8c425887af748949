"""Predictions by the million: shards that any number of processes and kills leave the same."""

import csv
import importlib.util
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

import reslab
from drawn_pictures import fill
from packing import add, write_parquet, write_shards
from reslab.cli import main
from reslab.cli.printing import print_json
from reslab.errors import InputError
from reslab.using import predicting, shards
from reslab.using.bulk import Predictor
from reslab.using.listing import expand

LONG = os.environ.get("RESLAB_LONG") == "1"
QUIET = {"quiet": True, "device": "cpu"}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """105 pictures, two of which cannot be read: the rest of a pass of 32 is one or a few."""
    folder = tmp_path_factory.mktemp("many") / "照片"
    fill(folder, 34, start=500)
    (folder / "bird" / "520.png").write_bytes(b"no picture")
    (folder / "a,\nb.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a picture by its name")
    (folder / "猫" / "c\udcff.png").write_bytes((folder / "猫" / "501.png").read_bytes())
    (folder / "zz").mkdir()
    (folder / "zz" / "last.png").write_bytes((folder / "猫" / "502.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def unbroken(run, many, tmp_path_factory):
    """The rows of one process in one shard, exact to the last bit."""
    assert reslab.predict(run.path, many, out=tmp_path_factory.mktemp("o") / "o", **QUIET).done == 1
    return Predictor(run.path, "cpu").rows(expand([str(many)])[:])


def rows_of(out):
    """The rows of all shards in their order, and how many there are in each."""
    found, sizes = [], []
    for path in sorted(out.glob("part-*.csv")):
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.reader(file))[1:]
        found += rows
        sizes.append(len(rows))
    return found, sizes


def as_text(rows):
    """Rows of cells as a CSV holds them."""
    return [[f"{c:.9g}" if isinstance(c, float) else c or "" for c in row] for row in rows]


def command(words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reslab", *map(str, words)])
    capsys.readouterr()
    status = 0
    try:
        main()
    except SystemExit as ended:
        status = ended.code
    return status, *capsys.readouterr()


def as_process(monkeypatch, rank, world):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))


def test_shards_hold_what_predict_says(run, many, unbroken, tmp_path):
    found = reslab.predict(run.path, many, out=tmp_path / "o", shard_size=40, **QUIET)
    assert (found.pictures, found.shards, found.done) == (105, 3, 3)
    assert (found.predicted, found.unreadable, len(found.problems)) == (105, 2, 2)
    rows, sizes = rows_of(tmp_path / "o")
    assert sizes == [40, 40, 25]
    assert rows == as_text(unbroken)
    classifier = reslab.Classifier.load(run.path, "cpu")
    said = list(classifier.stream(expand([str(many)])))
    for row, one in zip(unbroken, said, strict=True):
        if isinstance(one, InputError):
            assert row[1:4] == [None, None, str(one)]
        else:
            assert row[1] == one.label
            assert row[2] == pytest.approx(one.probability, abs=1e-6)


def test_a_row_depends_on_its_picture_alone(run, many, unbroken):
    """To the last bit: whatever passes beside it, and however many do."""
    predictor = Predictor(run.path, "cpu")
    names = expand([str(many)])[:]
    known = dict(zip(names, unbroken, strict=True))
    for seed in range(3):
        order = random.Random(seed).sample(names, len(names))
        for count in (1, 2, 33):
            assert predictor.rows(order[:count]) == [known[name] for name in order[:count]]
    held = [Path(name).read_bytes() for name in names]
    assert predictor.rows(names, held) == unbroken


def test_what_is_done_is_not_done_again(run, many, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "o"
    written = shards.write_safely

    def stopping(path, data):
        if path.name == "part-00004.csv":
            raise KeyboardInterrupt
        written(path, data)

    monkeypatch.setattr(shards, "write_safely", stopping)
    with pytest.raises(KeyboardInterrupt):
        reslab.predict(run.path, many, out=out, shard_size=16, **QUIET)
    monkeypatch.undo()
    before = {path: path.stat() for path in out.iterdir()}
    assert len(before) == 1 + 4 + 2  # the manifest, tables, what could not be read in two of them
    (out / ".part-00004.csv.1.tmp").write_text("half of it")
    found = reslab.predict(run.path, many, out=out, shard_size=16, **QUIET)
    assert (found.done, found.predicted) == (7, 105 - 4 * 16)
    for path, stat in before.items():
        assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert rows_of(out)[0] == as_text(unbroken)
    assert sorted(path.name for path in out.iterdir())[0] == "manifest.json"  # nothing half
    assert reslab.predict(run.path, many, out=out, shard_size=16, **QUIET).predicted == 0


def test_ctrl_c_says_how_to_go_on(run, many, tmp_path, capsys, monkeypatch):
    def pressed(path, data):
        if path.name.startswith("part-00001"):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        return written(path, data)

    written = shards.write_safely
    monkeypatch.setattr(shards, "write_safely", pressed)
    words = ["predict", run.path, many, "--out", tmp_path / "o", "--shard-size", "16"]
    status, _, said = command(words, capsys, monkeypatch)
    assert status == 130
    assert "the same command goes on" in said
    assert len(list((tmp_path / "o").glob("part-*"))) == 1


def test_any_number_of_processes_share_the_work(run, many, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "o"
    given = {"out": out, "shard_size": 16, **QUIET}
    as_process(monkeypatch, 0, 2)
    assert reslab.predict(run.path, many, **given).done == 4
    as_process(monkeypatch, 2, 3)  # three go on where two were: shards 2 and 5 are its own
    assert reslab.predict(run.path, many, **given).predicted == 16
    for rank in (1, 0):
        as_process(monkeypatch, rank, 3)
        found = reslab.predict(run.path, many, **given)
    assert found.done == found.shards == 7
    assert rows_of(out)[0] == as_text(unbroken)
    as_process(monkeypatch, 3, 3)
    with pytest.raises(InputError, match="RANK 3 of WORLD_SIZE 3"):
        reslab.predict(run.path, many, **given)


def test_other_processes_wait_for_the_first(run, many, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_PATIENCE", 0.2)
    as_process(monkeypatch, 1, 2)
    with pytest.raises(InputError, match="the process of rank 0"):
        reslab.predict(run.path, many, out=tmp_path / "o", **QUIET)
    assert list((tmp_path / "o").iterdir()) == []


def start(model, pictures, out, rank=0, world=1):
    words = ["predict", str(model), str(pictures), "--out", str(out), "--shard-size", "16"]
    return subprocess.Popen(
        [sys.executable, "-m", "reslab", *words, "--quiet", "--device", "cpu"],
        env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_at_any_time_in_any_number_of_processes(run, many, unbroken, tmp_path):
    """Two processes, one of them killed; what is left is done by others."""
    chance = random.Random(7)
    for series in range(10 if LONG else 1):
        out = tmp_path / str(series)
        for world in (2, 3, 1) if LONG else (2,):
            running = [start(run.path, many, out, rank, world) for rank in range(world)]
            wanted = chance.randrange(1, 5)
            until = time.monotonic() + 60
            while time.monotonic() < until and len(list(out.glob("part-*"))) < wanted:
                time.sleep(0.001)
            chance.choice(running).kill()
            for one in running:
                one.communicate(timeout=120)
        found = reslab.predict(run.path, many, out=out, shard_size=16, **QUIET)
        assert found.done == 7
        assert rows_of(out)[0] == as_text(unbroken)


@pytest.mark.parametrize("form", ["shards", "Parquet"])
def test_packed_pictures_are_predicted_where_they_lie(run, many, tmp_path, form):
    """With labels or without; a row is that of the same picture in a folder."""
    paths = [many / kind / f"{number}.png" for kind in ("猫", "bird") for number in range(501, 531)]
    rows = [(path.name, path.read_bytes(), path.parent.name) for path in paths]
    (tmp_path / "packed").mkdir()
    for number in range(2):
        own = rows[30 * number : 30 * number + 30]
        if form == "Parquet":
            write_parquet(tmp_path / "packed" / f"{number}.parquet", own, ("bird", "猫"))
        else:
            write_shards(tmp_path / "packed" / str(number), own, each=40)
    packs = sorted((tmp_path / "packed").iterdir())
    if form == "shards":  # one without labels
        with tarfile.open(packs[1], "w") as shard:
            for name, data, kind in rows[30:]:
                add(shard, f"{kind}/{name}", data)
                add(shard, f"{kind}/{name}.txt", b"a caption")
            add(shard, "bird/strange.img", rows[30][1])
    for _ in range(2):  # what is known of a file by then is told all the same
        notes = expand([str(tmp_path / "packed")], packed=True).notes
        beside = f"{packs[1]}: 1 file (bird/strange.img) not pictures by their names: not used"
        assert notes == ((beside,) if form == "shards" else ())
    found = reslab.predict(run.path, tmp_path / "packed", out=tmp_path / "o", **QUIET)
    assert (found.pictures, found.unreadable) == (60, 1)
    known = Predictor(run.path, "cpu")
    for row in rows_of(tmp_path / "o")[0]:
        pack, _, name = row[0].rpartition(":")
        kind = "猫" if Path(pack) == packs[0] else "bird"
        source = many / kind / name.rpartition("/")[2].rpartition("-")[2]
        (said,) = as_text(known.rows([str(source)]))
        assert row[1:3] + row[4:] == said[1:3] + said[4:]
        assert bool(row[3]) == (source == many / "bird" / "520.png")
    named = tmp_path / "packed" / ("{0..1}.parquet" if form == "Parquet" else "{0..1}-000.tar")
    assert list(expand([str(named)], packed=True)) == list(
        expand([str(tmp_path / "packed")], packed=True)
    )
    packs[0].write_bytes(packs[0].read_bytes()[:700])
    with pytest.raises(InputError, match=packs[0].name):
        reslab.predict(run.path, packs[0], out=tmp_path / "second", **QUIET)


def test_something_else_is_refused_by_name(run, many, tmp_path, monkeypatch):
    out = tmp_path / "o"
    reslab.predict(run.path, many / "猫", out=out, **QUIET)
    before = {path: path.read_bytes() for path in out.iterdir()}
    other = tmp_path / "other.safetensors"
    other.write_bytes((run.path / "model.safetensors").read_bytes())
    assert reslab.predict(other, many / "猫", out=out, **QUIET).predicted == 0  # the same content
    monkeypatch.setattr(predicting, "_digest_of", lambda path: "another")
    monkeypatch.chdir(many)
    for given, options, said in (
        (many / "猫", {}, "the model: another one"),
        (many / "猫", {"top": 2, "raw": True}, "top: 5 there, 2 now\n  raw: False there, True now"),
        (many / "猫", {"shard_size": 9}, "shard-size: 8192 there, 9 now"),
        (many / "bird", {}, "the number of pictures: 35 there, 34 now"),
        ("猫", {}, "other paths, or another order"),  # rows would differ
        ([*(many / "狗").iterdir(), many / "zz" / "last.png"], {}, "other paths, or another order"),
    ):
        with pytest.raises(InputError, match="begun with something else") as refused:
            reslab.predict(run.path, given, out=out, **options, **QUIET)
        assert said in str(refused.value)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "part-00000.csv").write_text("a user's")
    with pytest.raises(InputError, match=r"holds part-00000.csv and no manifest"):
        reslab.predict(run.path, many, out=tmp_path / "mine", **QUIET)
    (out / "manifest.json").write_text("[")
    with pytest.raises(InputError, match=r"manifest.json: cannot be read"):
        reslab.predict(run.path, many / "猫", out=out, **QUIET)


def test_one_command_at_a_time_writes_the_folder(run, many, tmp_path):
    with (
        predicting.holding(tmp_path / "o", lambda: "nobody"),
        pytest.raises(InputError, match="in use by another command"),
    ):
        reslab.predict(run.path, many, out=tmp_path / "o", **QUIET)


def test_the_command_sums_up(run, many, tmp_path, capsys, monkeypatch):
    words = ["predict", run.path, many, "--out", tmp_path / "o", "--json", "--quiet"]
    status, out, said = command(words, capsys, monkeypatch)
    assert status == 2  # as without --out: not all could be read
    assert "2 of 105 picture(s) cannot be read" in said
    assert "520.png: not a picture" in said
    summary = json.loads(out)
    assert (summary["pictures"], summary["done"], summary["unreadable"]) == (105, 1, 2)
    listed = (tmp_path / "o" / "unreadable-00000.txt").read_text().splitlines()
    assert len(listed) == 2
    assert "520.png: not a picture" in " ".join(listed)
    status, out, said = command(words[:-2], capsys, monkeypatch)
    assert status == 2  # an earlier start has met them, which does not mend them
    assert "finished before" in out
    assert "2 of 105 picture(s) cannot be read" in said
    as_process(monkeypatch, 0, 2)
    words[4] = tmp_path / "second"
    status, _, said = command(words, capsys, monkeypatch)
    assert status == 0  # or torchrun would stop the others
    assert "note: 2 of 105" in said
    as_process(monkeypatch, 1, 2)
    assert command(words, capsys, monkeypatch)[1] == ""  # one process speaks


def test_parquet_holds_the_same(run, many, unbroken, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    given = {"format": "parquet", "coverage": 0.8, "unknown_below": 0.9, "shard_size": 64}
    reslab.predict(run.path, many, out=tmp_path / "o", **given, **QUIET)
    tables = [parquet.read_table(path) for path in sorted((tmp_path / "o").glob("*.parquet"))]
    assert len(tables) == 2
    rows = [row for table in tables for row in table.to_pylist()]
    for row, (path, label, probability, error, *_) in zip(rows, unbroken, strict=True):
        assert row["path"] == path.encode("utf-8", "backslashreplace").decode()
        assert (row["likeliest"], row["probability"], row["error"]) == (label, probability, error)
        assert row["label"] == ("unknown" if probability and probability < 0.9 else label)
        assert (row["set"] is None) == (error is not None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'reslab\[tables\]'"):
        reslab.predict(run.path, many, out=tmp_path / "p", **given, **QUIET)
    assert not (tmp_path / "p").exists()


@pytest.mark.skipif(not LONG, reason="starts a Ray cluster; RESLAB_LONG=1")
def test_ray_gives_the_same_rows(run, many, unbroken, tmp_path):
    """The script of docs/scale.md as it stands there, on two workers."""
    parquet = pytest.importorskip("pyarrow.parquet")
    if importlib.util.find_spec("ray") is None:
        pytest.skip("no ray: pip install 'reslab[ray]'")
    page = Path(__file__).resolve().parent.parent / "docs" / "scale.md"
    (script,) = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    (tmp_path / "script.py").write_text(script)
    readable = tmp_path / "photos"  # Arrow's names are UTF-8
    shutil.copytree(
        many, readable, ignore=lambda place, names: [n for n in names if "c\udcff" in n]
    )
    (tmp_path / "model").symlink_to(run.path)
    (readable / "notes.txt").unlink()
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = []
    for part in (tmp_path / "predicted").glob("*.parquet"):
        rows += parquet.read_table(part).to_pylist()
    found = sorted(list(row.values()) for row in rows)
    wanted = [
        [cell.replace(str(many), "photos") if isinstance(cell, str) else cell for cell in row]
        for row in unbroken
        if "\udcff" not in row[0]
    ]
    assert found == sorted(wanted)


def test_a_listing_is_what_the_folders_hold(many, tmp_path, monkeypatch):
    first, last = str(many / "猫" / "501.png"), str(many / "猫" / "502.png")
    listing = expand([first, str(many / "bird"), f"{many / '狗'}/", last])
    inside = [str(path) for kind in ("bird", "狗") for path in sorted((many / kind).iterdir())]
    names = [first, *inside, last]
    assert list(listing) == names
    assert (listing[0], listing[-1], listing[30:40]) == (first, last, names[30:40])
    with pytest.raises(IndexError):
        listing[len(names)]
    assert expand([first, *names[1:]]).digest() != expand([first, *names[2:], names[1]]).digest()
    digests = set()
    for place in ("a", "b"):  # the same names in another place are other pictures
        fill(tmp_path / place / "photos", 1)
        monkeypatch.chdir(tmp_path / place)
        digests.add(expand(["photos"]).digest())
    assert len(digests) == 2


@pytest.mark.parametrize("words", [
    ["explain", "RUN", ".", "--out", "explained"],
    ["predict", "RUN", ".", "--copy-to", "sorted"],
    ["predict", "RUN", ".", "--out", "tables", "--format", "parquet"],
])  # fmt: skip
def test_results_in_the_folder_of_pictures_are_none_of_them(
    run, tmp_path, capsys, monkeypatch, words
):
    """The second time: the same command goes on, or does the same again."""
    if "parquet" in words:
        pytest.importorskip("pyarrow")
    fill(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    count = len(expand(["."]))
    words = [str(run.path) if word == "RUN" else word for word in words]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["reslab", *words, "--json"])
        with suppress(SystemExit):
            main()
        said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert (said[0]["pictures"] if "parquet" in words else len(said)) == count


def test_what_a_folder_holds_beside_pictures_is_told(run, many, tmp_path, capsys, monkeypatch):
    found = expand([str(many)], packed=True)
    assert [note.removeprefix(str(many)) for note in found.notes] == [
        ": 1 file (notes.txt) not pictures by their names: not used"
    ]
    reslab.predict(run.path, many, out=tmp_path / "out", **QUIET)
    assert "1 file (notes.txt) not pictures" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["reslab", "predict", str(run.path), str(many)])
    with pytest.raises(SystemExit):
        main()
    assert "1 file (notes.txt) not pictures" in capsys.readouterr().err


def test_json_is_json_in_any_encoding(monkeypatch):
    """As in a Chinese Windows pipe, which cannot say every letter."""
    for encoding in ("gbk", "ascii", "utf-8"):
        written = io.BytesIO()
        out = io.TextIOWrapper(written, encoding, errors="backslashreplace")
        monkeypatch.setattr(sys, "stdout", out)
        print_json({"path": "é 猫 \U0001f600"})
        monkeypatch.undo()
        assert json.loads(written.getvalue().decode(encoding)) == {"path": "é 猫 \U0001f600"}
    assert "猫".encode() in written.getvalue()
