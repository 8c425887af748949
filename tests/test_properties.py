"""Whatever stands in a record, a recipe, a list, a table, a zip or a command: exit 0 or 2, no more.

A few hundred cases here, 20,000 of each kind with RESLAB_LONG=1 (`make long`).
"""

import io
import json
import os
import sys
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reslab
from drawn_pictures import fill, picture
from reslab.cli import COMMANDS, main
from reslab.errors import InputError
from reslab.pictures.data_source import DataSource
from reslab.pictures.decoding import UnreadablePictureError, decode
from reslab.pictures.lists import parse_classes, parse_csv, parse_list, resolve_labels
from reslab.pictures.sources import open_pictures
from reslab.recipes.files import parse_recipe
from reslab.recipes.recipe import FIELD_NAMES, Recipe
from reslab.run.folder import Run, open_run
from reslab.training import training

CASES = 20_000 if os.environ.get("RESLAB_LONG") == "1" else 100
cases = settings(
    max_examples=CASES, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
ODD_TEXT = st.text(max_size=12) | st.sampled_from([
    "0", "-1", "1e308", "-1e-320", "nan", "inf", "9" * 400, "~nobody", "/", ".", "..", "", " ",
    "--", "-", "=", "true", "[]", "28,32", "猫", "\ufeff", "\u202e", "%s", "${HOME}", "a\nb", "'",
])  # fmt: skip
TOKENS = st.lists(
    st.sampled_from([f"--{name}" for name in FIELD_NAMES]).map(lambda name: name.replace("_", "-"))
    | st.sampled_from(["--out", "--test", "--val", "--root", "--data-root", "--recipe", "--device",
                       "--json", "--quiet", "--split", "--top", "--classes", "--size", "--prune",
                       "--watch-test", "--overwrite", "--lr", "--epochs", "DATA", "RUN"])
    | ODD_TEXT,
    max_size=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory, run):
    """A folder of pictures, and the text of a run's record."""
    folder = tmp_path_factory.mktemp("world")
    fill(folder / "data", 3, classes=("a", "b"))
    return folder, json.loads((run.path / "run.json").read_text("utf-8")), run.path


@cases
@given(st.data())
def test_run_json(world, tmp_path_factory, data):
    folder, info, _ = world
    changed = dict(info)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(info)))
        changed[name] = data.draw(JSON)
    if data.draw(st.booleans()):
        del changed[data.draw(st.sampled_from(sorted(changed)))]
    (folder / "run.json").write_text(json.dumps(changed), "utf-8", "surrogatepass")
    try:
        found = open_run(folder)
    except InputError:
        return
    # What is accepted can be used: asked for its scores, and written again.
    assert found.classes is not None
    assert found.finished in (True, False)
    Run(folder).refuse_held(overwrite=True)


@cases
@given(st.lists(st.tuples(st.sampled_from(FIELD_NAMES), JSON | ODD_TEXT), max_size=5), ODD_TEXT)
def test_recipe_toml(fields, rest):
    lines = []
    for name, value in fields:
        written = json.dumps(value) if not isinstance(value, str) else f'"{value}"'
        lines.append(f"{name} = {written}")
    try:
        recipe = parse_recipe("\n".join([*lines, rest]), "there")
    except InputError:
        return
    assert parse_recipe(recipe.to_toml(), "again") == recipe


@cases
@given(st.dictionaries(st.sampled_from(FIELD_NAMES), JSON | ODD_TEXT, max_size=4))
def test_fields_by_name(fields):
    try:
        recipe = Recipe().with_fields(fields)
    except InputError:
        return
    assert parse_recipe(recipe.to_toml(), "again") == recipe


LISTED = st.binary(max_size=80) | st.lists(
    st.tuples(st.text(max_size=10), st.sampled_from([" ", "\t", ",", ";", '"', ""]),
              st.text(max_size=10)).map("".join), max_size=6,
).map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))  # fmt: skip


@cases
@given(LISTED, st.sampled_from(["", "path,label\n", "path;label;split\n", "image\tclass\n"]))
def test_lists_and_tables(data, header):
    for parse in (parse_list, parse_csv):
        entries, problems = parse(header.encode() + data, "there")
        assert len(entries) or problems
        assert all(problem.startswith("there") for problem in problems)
        classes = tuple(sorted(entries.words))
        labels, _ = resolve_labels(entries, classes, "the model")
        assert all(-1 <= label < len(classes) for label in labels)
    parse_classes(data, "there")


NAMES = st.text(max_size=12) | st.sampled_from(
    ["a/1.png", "b/1.png", "train/a/1.png", "test/b/1.png", "../x.png", "/a/b.png", "a//b.png",
     "train.txt", "classes.txt", "a\\b.png", ".hidden/a.png", "__MACOSX/a", "a/"]
)  # fmt: skip


@cases
@given(st.dictionaries(NAMES, st.binary(max_size=40), max_size=6), st.integers(0, 200))
def test_zips(world, members, damage):
    folder = world[0]
    path = folder / "some.zip"
    held = io.BytesIO()
    try:
        with zipfile.ZipFile(held, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    except Exception:  # zipfile itself does not take such a name
        return
    data = bytearray(held.getvalue())
    if damage < len(data):
        data[damage] ^= 0xFF
    path.write_bytes(bytes(data))
    try:
        pictures = open_pictures(path)
        for _, samples in pictures:
            for name in samples.paths:
                assert samples.files.has(name)
    except InputError:
        return
    with pytest.raises(InputError):  # none of these bytes are pictures
        DataSource.named(path).read()


@pytest.fixture(scope="module")
def png():
    held = io.BytesIO()
    picture(0, 0, (12, 12)).save(held, "PNG")
    return held.getvalue()


@cases
@given(st.integers(0, 10_000), st.integers(1, 255), st.integers(0, 10_000))
def test_pictures(png, place, flip, cut):
    data = bytearray(png)
    data[place % len(data)] ^= flip
    try:
        found = decode(bytes(data[: len(data) - cut % 50]), 3)
    except UnreadablePictureError:
        return
    assert found.dtype.itemsize == 1
    assert found.ndim == 3


@cases
@given(st.sampled_from(sorted(COMMANDS)), TOKENS)
def test_commands(world, monkeypatch_module, command, tokens):
    folder, _, run = world
    places = {"DATA": str(folder / "data"), "RUN": str(run)}
    words = [places.get(token, token) for token in tokens]
    out = io.StringIO()
    before = sys.argv, sys.stdout, sys.stderr
    sys.argv, sys.stdout, sys.stderr = ["reslab", command, *words], out, out
    try:
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    assert status in (0, 2), (command, words, status)
    assert "Traceback" not in out.getvalue()


@pytest.fixture(scope="module")
def monkeypatch_module(tmp_path_factory):
    """Commands run in a folder of their own; what takes long goes no further than its start."""

    def enough(*given, **named):
        raise InputError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        patch.setattr(training, "prepare", enough)
        patch.setattr(reslab.training.training, "resume", enough)
        patch.setattr("reslab.using.exporting._made", enough)
        patch.setattr("reslab.using.serving.serve.make_server", enough)
        yield patch
