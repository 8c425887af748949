"""Small real inputs: pictures drawn here, a model trained on them, and the shared real data."""

import os
import zipfile
from pathlib import Path

import pytest

import reslab
from drawn_pictures import fill

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """No test leaves anything in the cache of who runs it, or finds something there."""
    before = os.environ.get("RESLAB_CACHE")
    os.environ["RESLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("RESLAB_CACHE")
    if before is not None:
        os.environ["RESLAB_CACHE"] = before


@pytest.fixture(scope="session")
def shared():
    """The folder of real data and weights; tests that need it skip where it is not."""
    given = os.environ.get("RESLAB_SHARED")
    folder = Path(given) if given else HERE.parent.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data: {folder} is missing (RESLAB_SHARED names another place)")
    return folder


@pytest.fixture(scope="session")
def mnist_root(shared, tmp_path_factory):
    return unpacked(shared / "data" / "mnist.zip", tmp_path_factory.mktemp("mnist"))


@pytest.fixture(scope="session")
def food(shared, tmp_path_factory):
    return unpacked(shared / "data" / "food10.zip", tmp_path_factory.mktemp("food10"))


def unpacked(archive, folder):
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder


@pytest.fixture
def undrawn(monkeypatch, request):
    """Leave out the curves, the sheet and the report, half of a small training's time, where tests
    look at numbers. One marked `drawn` has them."""
    if request.node.get_closest_marker("drawn"):
        return
    from reslab.training import following, run_files

    for module, name in (
        (run_files, "draw_curves"), (run_files, "write_report"), (following, "draw_training_sheet"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *given, **more: None)


@pytest.fixture
def photos(tmp_path):
    """A folder a class, 3 classes of 20 pictures, with Chinese names."""
    fill(tmp_path / "照片", 20)
    return tmp_path / "照片"


@pytest.fixture(scope="session")
def split_photos(tmp_path_factory):
    """train/ and test/ with a folder a class; not to be changed."""
    folder = tmp_path_factory.mktemp("split") / "数据"
    fill(folder / "train", 24)
    fill(folder / "test", 8, start=100)
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A ResNet-18 of torchvision's form with random weights, as a state-dict file."""
    import torch
    import torchvision

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def run(split_photos, tmp_path_factory):
    """A finished run on `split_photos`."""
    out = tmp_path_factory.mktemp("runs") / "run"
    return reslab.train(split_photos, out=out, seed=1, epochs=8, batch_size=16, quiet=True)
