"""The house itself: import direction, start-up, exports, documents that are true."""

import ast
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import reslab

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "reslab"
ORDER = [
    *[
        "errors",
        "disk",
        "options",
        "process",
        "processes",
        "pictures",
        "networks",
        "judging",
        "recipes",
        "features",
    ],
    *["learning", "run", "checking", "reporting", "training", "searching", "using", "cli"],
]


def room(module: str) -> int:
    return ORDER.index(module.split(".")[1])


MODULES = [p for p in sorted(SOURCE.rglob("*.py")) if p.parent != SOURCE or p.stem in ORDER]


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(SOURCE)) for p in MODULES])
def test_imports_never_turn_back(path):
    """A picture's way through the rooms is the order of imports; a room that has no place fails."""
    own = "reslab." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("reslab."):
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("reslab.")]
        for name in names:
            assert room(name) <= room(own), f"{own} imports {name}"


@pytest.mark.parametrize(
    "words",
    ["--help", "train --help", "--version", "recipes", "train digits --epoch 3",
     "train x --optimizer.lr", "train x --recipe absent"],
)  # fmt: skip
def test_help_and_errors_do_not_import_torch(words):
    code = (
        "import sys; sys.argv = ['reslab', *sys.argv[1:]]\n"
        "from reslab.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_reads_a_model_does_not_import_torchs_compiler():
    """It takes a second, a third of what `predict` takes to start; torchvision imports it too."""
    code = (
        "import sys\n"
        "from reslab.networks.catalogue import NetworkSpec, build_network\n"
        "for name in ('small-resnet', 'cifar10-fast', 'mnist-fast'):\n"
        "    built = build_network(NetworkSpec(name, 5, 3, (96, 96)))\n"
        "    assert {tensor.device.type for tensor in built.state_dict().values()} == {'meta'}\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", MODULES, ids=[str(p.relative_to(SOURCE)) for p in MODULES])
def test_a_module_reads_at_one_sitting(path):
    text = path.read_text("utf-8")
    assert text.count("\n") <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is long"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_names_every_file_of_a_run(name):
    from reslab.training.run_files import RUN_FILES

    rows = [row for row in (ROOT / name).read_text("utf-8").splitlines() if row.startswith("| `")]
    named = {found for row in rows for found in re.findall(r"`([\w.]+)/?`", row.split("|")[1])}
    assert {file.name.split("/")[0] for file in RUN_FILES} <= named


def test_python_takes_every_option_by_the_commands_name(split_photos):
    """A field of the recipe or a data option is written once and is known to all three."""
    from reslab.cli.options import keywords
    from reslab.pictures.data_source import DataSource
    from reslab.recipes.recipe import FIELDS, Recipe

    command = set(typing.get_args(keywords(DataSource, Recipe))[0].__annotations__)
    assert {name for name in command if "." in name} | {"optimizer.lr"} == {
        name for name in FIELDS if "." in name
    }
    python = set(inspect.signature(reslab.train).parameters)
    assert {name for name in command if "." not in name} < python
    documented = set(re.findall(r"^ *(\w+): ", reslab.train.__doc__, re.MULTILINE))
    assert python <= documented
    with pytest.raises(TypeError, match="'epoch'; did you mean 'epochs'"):
        reslab.train(split_photos, epoch=1)
    with pytest.raises(TypeError, match="'leave_out'; did you mean 'leave_out_unreadable'"):
        reslab.evaluate("model", split_photos, leave_out=True)
    with pytest.raises(reslab.InputError, match=r"optimizer\.lr: set twice"):
        reslab.train(split_photos, lr=0.1, fields={"optimizer.lr": 0.2})


def test_reading_files_leaves_training_its_threads(split_photos):
    """Worker threads keep to a core each; the process must not be left with one thread."""
    alone = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.get_num_threads())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    usual = int(alone.stdout)
    code = (
        "import sys, reslab.pictures.reading as reading\n"
        "from reslab.pictures.sources import open_pictures\n"
        "reading.with_keys(open_pictures(sys.argv[1]))\n"
        "import torch, threading\n"
        "counts = [torch.get_num_threads()]\n"
        "later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))\n"
        "later.start(), later.join()\n"
        "counts += reading.in_threads(lambda _: torch.get_num_threads(), [0])\n"
        "print(counts)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(split_photos)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout.strip() == f"[{usual}, {usual}, 1]", done.stderr


def test_everything_exported_exists():
    for name in reslab.__all__:
        assert getattr(reslab, name) is not None
    assert not hasattr(reslab, "nothing_of_this_name")


def test_the_command_line_reference_is_up_to_date():
    from reference import PAGE, reference

    assert PAGE.read_text("utf-8") == reference(), "run `make docs`"


def test_the_stub_of_the_package_is_up_to_date():
    from reference import STUB, stub

    assert STUB.read_text("utf-8") == stub(), "run `make docs`"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_runs(name, run, split_photos, tmp_path, monkeypatch):
    """The Python of the README, on small stand-ins for its files."""
    text = (ROOT / name).read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(split_photos)
    (tmp_path / "cat.png").write_bytes((split_photos / "test" / "猫" / "100.png").read_bytes())
    for block in blocks:
        exec(compile(block, name, "exec"), {})


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_names_real_commands_and_recipes(name):
    from reslab.cli import app
    from reslab.recipes.files import recipe_names

    text = (ROOT / name).read_text("utf-8")
    for command in set(re.findall(r"^\$? ?reslab ([a-z]+)", text, re.MULTILINE)):
        assert command in app
    for recipe in set(re.findall(r"--recipe ([a-z0-9-]+)(?![\w.-])", text)):
        assert recipe in recipe_names()
    for recipe in recipe_names():
        assert f"`{recipe}`" in text


def test_both_readmes_tell_the_same_figures():
    def figures(name):
        text = (ROOT / name).read_text("utf-8")
        return re.findall(r"\d[\d,.]*\d", "\n".join(
            line for line in text.splitlines() if line.startswith("|")))  # fmt: skip

    assert figures("README.md") == figures("README.zh-CN.md")
