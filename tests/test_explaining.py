"""Where the network looks: at what matters, in the right place, told plainly where it cannot."""

import io
import json
import os
import shutil
import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import reslab
from reslab.cli import main
from reslab.errors import InputError
from reslab.judging.overlay import overlay
from reslab.networks.explaining import grad_cam, spatial_layer
from reslab.pictures import decoding
from reslab.pictures.preprocessing import Preprocessing
from reslab.using.explaining import explain_pictures, marked_picture

CORNERS = {"top left": (0, 0), "bottom right": (16, 16)}


@pytest.fixture(scope="module")
def corners(tmp_path_factory):
    """A classifier of what colour a square has that lies in either corner, on noise."""
    data = tmp_path_factory.mktemp("corners") / "d"
    source = np.random.default_rng(0)
    for split, count in {"train": 60, "test": 20}.items():
        for name, colour in {"red": (255, 40, 40), "blue": (40, 40, 255)}.items():
            (data / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = source.integers(80, 140, (32, 32, 3), dtype=np.uint8)
                y, x = list(CORNERS.values())[number % 2]
                pixels[y + 2 : y + 14, x + 2 : x + 14] = colour
                Image.fromarray(pixels).save(data / split / name / f"{number}.png")
    out = tmp_path_factory.mktemp("corners run") / "r"
    run = reslab.train(data, out=out, seed=1, epochs=8, batch_size=20, quiet=True)
    assert run.test["accuracy"] == 1
    return run


def test_it_looks_where_the_square_is(corners):
    classifier = reslab.Classifier.load(corners.path)
    data = corners.info["source"]["data"]
    inside = []
    for name in ("red", "blue"):
        for number in range(20):
            found = classifier.explain(f"{data}/test/{name}/{number}.png")
            assert found.label == name
            assert found.map.shape == (32, 32)
            assert found.map.max() == pytest.approx(1)
            assert found.map.min() >= 0
            y, x = list(CORNERS.values())[number % 2]
            inside.append(found.map[y : y + 16, x : x + 16].sum() / found.map.sum())
    assert np.mean(inside) > 0.6  # a quarter of the picture
    assert np.mean(np.array(inside) > 0.25) > 0.9


def test_a_class_of_ones_own(corners):
    classifier = reslab.Classifier.load(corners.path)
    path = f"{corners.info['source']['data']}/test/red/0.png"
    red, blue = classifier.explain(path), classifier.explain(path, "blue")
    assert (blue.label, blue.probability) == ("blue", pytest.approx(1 - red.probability, abs=1e-6))
    assert not np.allclose(red.map, blue.map)
    with pytest.raises(InputError, match="no class 'reed' in this model; did you mean 'red'"):
        classifier.explain(path, "reed")


def test_grad_cam_is_what_its_paper_says():
    """Against the formula written out: the mean gradient of the log odds weighs each map."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(5, 4),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 17, 17)
    assert spatial_layer(network, x) == "1"
    found = grad_cam(network, x, torch.tensor([1, 3]), "1")
    for row, target in enumerate((1, 3)):
        maps = network[1](network[0](x[row : row + 1])).detach().requires_grad_()
        chances = network[4](network[3](network[2](maps)))[0].double().softmax(0)
        (chances[target] / (1 - chances[target])).log().backward()
        weights = maps.grad.mean((2, 3), keepdim=True)
        cam = (weights * maps).sum(1, keepdim=True).clamp(min=0).detach()
        cam = nn.functional.interpolate(cam, (17, 17), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(torch.from_numpy(found[row]), cam / cam.max().clamp(min=1e-30))
    assert all(parameter.grad is None for parameter in network[0].parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


class Tokens(nn.Module):
    """Patches, then a layer over tokens, as a transformer has."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.mix(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize(
    "network", [Tokens(), nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))]
)
def test_a_network_without_places_says_so(network):
    with pytest.raises(InputError, match="no layer whose outputs are places"):
        spatial_layer(network, torch.randn(1, 3, 16, 16))


def test_explaining_disturbs_no_prediction(corners):
    """Both at once, from one classifier, in several threads."""
    classifier = reslab.Classifier.load(corners.path)
    data = corners.info["source"]["data"]
    paths = [f"{data}/test/red/{number}.png" for number in range(6)]
    plain = [classifier.predict(path) for path in paths]
    maps = [classifier.explain(path).map for path in paths]
    problems = []

    def work(number):
        try:
            for turn in range(6):
                which = (number + turn) % 6
                if number % 2:
                    assert classifier.predict(paths[which]) == plain[which]
                else:
                    np.testing.assert_array_equal(classifier.explain(paths[which]).map, maps[which])
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not problems


@pytest.mark.parametrize(
    ("mode", "fraction", "expected"),
    [("squash", 1.0, (0, 0, 200, 100)), ("crop", 1.0, (50, 0, 150, 100)),
     ("crop", 0.5, (75, 25, 125, 75)), ("letterbox", 1.0, (0, -50, 200, 150))],
)  # fmt: skip
def test_the_region_is_the_part_that_is_seen(mode, fraction, expected):
    record = Preprocessing(
        size=(50, 50), mode=mode, crop_fraction=fraction, channels=1, mean=(0.5,), std=(1,)
    )
    assert record.region(100, 200) == pytest.approx(expected)
    left, top, right, bottom = expected
    pixels = torch.zeros(1, 1, 100, 200, dtype=torch.uint8)
    box = slice(max(0, top), bottom), slice(max(0, left), right)
    pixels[0, 0][box] = 255
    seen = record.fit(pixels)[0, 0]
    outside = record.fit(255 - pixels)[0, 0]
    middle = slice(15, 35), slice(2, -2)
    assert (seen[middle] > 250).all()
    assert (outside[middle] < 5).all()


def test_the_command_writes_overlays_and_numbers(corners, tmp_path, capsys, monkeypatch):
    data = corners.info["source"]["data"]
    words = ["explain", corners.path, f"{data}/test/red/0.png", f"{data}/test/blue/0.png"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reslab", *map(str, words)])
    main()
    written = sorted(path.name for path in (tmp_path / "explained").iterdir())
    assert written == ["0 (2).explained.png", "0.explained.png"]
    with Image.open(tmp_path / "explained" / "0.explained.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert pixels.shape == (224, 224, 3)
    red = pixels[..., 0] - pixels[..., 2]
    assert red[:112, :112].mean() > 2 * red[112:, 112:].mean()  # the square is at the top left
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["reslab", *map(str, words), "--json", "--class", "blue"])
    main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in words[2:]]
    assert all(row["label"] == "blue" and row["region"] == [0, 0, 32, 32] for row in rows)
    assert np.array(rows[0]["map"]).shape == tuple(rows[0]["size"]) == (32, 32)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    monkeypatch.setattr(sys, "argv", ["reslab", "explain", str(corners.path), "bad.png"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "bad.png: not a picture" in capsys.readouterr().err


def test_an_overlay_replaces_no_file_of_others(corners, tmp_path, monkeypatch):
    (tmp_path / "explained").mkdir()
    (tmp_path / "explained" / "0.explained.png").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    path = f"{corners.info['source']['data']}/test/red/0.png"
    monkeypatch.setattr(sys, "argv", ["reslab", "explain", str(corners.path), path])
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        (tmp_path / "explained" / "0.explained.png").unlink()
        os.mkfifo(tmp_path / "explained" / "0.explained.png")  # is not waited for


def test_overlays_of_other_pictures_stay(corners, tmp_path):
    """Those of another folder, or of another class; the same one is drawn anew."""
    data = corners.info["source"]["data"]
    given = [(f"{data}/test/red/0.png", None), (f"{data}/test/blue/0.png", None),
             (f"{data}/test/red/0.png", "blue"), (f"{data}/test/red/0.png", None)]  # fmt: skip
    places = []
    for path, label in given:
        (found,) = explain_pictures(corners.path, [path], label=label, out=tmp_path / "out")
        places.append(found["png"])
    assert len(set(places)) == 3
    assert places[0] == places[3]


@pytest.mark.parametrize("shape", [(8, 8, 1), (40, 20, 3)])
def test_the_overlay_is_grey_where_nothing_speaks(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    drawn = np.asarray(overlay(pixels, np.zeros((4, 4), np.float32)))
    assert (drawn == drawn[..., :1]).all()
    marked = np.asarray(overlay(pixels, np.ones((4, 4), np.float32))).astype(int)
    assert (marked[..., 0] > marked[..., 2] + 100).all()


def test_a_large_photo_is_explained_as_it_is_predicted(corners, tmp_path, monkeypatch):
    """At a part of its size, where all of it would be too large."""
    monkeypatch.setattr(decoding, "LARGEST", 3_000_000)
    photo = tmp_path / "photo.jpg"
    noise = np.random.default_rng(1).integers(0, 256, (18, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((2400, 1800)).save(photo, quality=50)
    classifier = reslab.Classifier.load(corners.path)
    assert classifier.predict(photo)
    (found,) = explain_pictures(corners.path, [str(photo)], out=tmp_path / "out")
    assert found["region"] == [0, 0, 2400, 1800]  # of the photo as it is
    with Image.open(found["png"]) as drawn:
        assert drawn.size == (800, 600)
    marked = marked_picture(photo.read_bytes(), classifier.explain(photo), classifier.preprocessing)
    with Image.open(io.BytesIO(marked)) as drawn:
        assert drawn.size == (800, 600)


def test_a_name_too_long_for_an_overlay_stops_no_other(corners, tmp_path):
    source = f"{corners.info['source']['data']}/test/red/0.png"
    for name in ("很" * 80, "z"):
        shutil.copy(source, tmp_path / f"{name}.png")
    long, short = explain_pictures(corners.path, [str(tmp_path)], out=tmp_path / "out")
    if isinstance(short, InputError):
        long, short = short, long
    assert "too long a name" in str(long)
    assert short["png"].endswith("z.explained.png")
