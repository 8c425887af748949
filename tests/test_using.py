"""Prediction and evaluation: the same numbers by every way."""

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import torch
from PIL import Image

import reslab
from drawn_pictures import CLASSES, fill, picture
from reslab.networks.model_file import load_model


@pytest.fixture(scope="module")
def classifier(run):
    return reslab.Classifier.load(run.path)


def predictions_of(run):
    with (run.path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_picture_is_predicted_as_evaluation_did(run, split_photos, classifier):
    for row in predictions_of(run):
        found = classifier.predict(split_photos / row["path"])
        assert found.label == row["prediction"]
        assert found.probability == pytest.approx(float(row["probability"]), rel=2e-6)


@pytest.mark.parametrize("mode", ["crop", "letterbox", "squash"])
@pytest.mark.parametrize("sizes", [[(30, 40)], [(30, 40), (50, 20)], [(12, 12)]])
def test_prediction_equals_evaluation_in_every_mode(tmp_path, mode, sizes):
    """A crop must not be cropped again, whether pictures are larger, smaller or of many sizes."""
    for kind, name in enumerate(CLASSES):
        (tmp_path / "d" / name).mkdir(parents=True)
        for number in range(8):
            image = picture(kind, number, sizes[number % len(sizes)])
            image.save(tmp_path / "d" / name / f"{number}.png")
    found = reslab.train(
        tmp_path / "d", recipe="small-resnet", out=tmp_path / "r", epochs=1, quiet=True,
        fields={"preprocess.size": 24, "preprocess.mode": mode, "preprocess.crop_fraction": 0.8,
                "split.test": 0.5},
    )  # fmt: skip
    classifier = reslab.Classifier.load(found.path)
    for row in predictions_of(found):
        alone = classifier.predict(tmp_path / "d" / row["path"])
        assert alone.label == row["prediction"]
        assert alone.probability == pytest.approx(float(row["probability"]), rel=2e-6)


def test_a_batch_a_stream_and_one_by_one_agree(split_photos, classifier):
    paths = sorted((split_photos / "test").rglob("*.png"))
    many = classifier.predict(paths)
    assert [found.path for found in many] == [str(path) for path in paths]
    for path, found in zip(paths, many, strict=True):
        alone = classifier.predict(path)
        assert alone.label == found.label
        assert alone.probability == pytest.approx(found.probability, rel=2e-6)


def test_paths_bytes_and_pillow_pictures_are_the_same(split_photos, classifier):
    path = next((split_photos / "test").rglob("*.png"))
    with Image.open(path) as opened:
        ways = [classifier.predict(item) for item in (path, str(path), path.read_bytes(), opened)]
    assert len({(way.label, way.probability) for way in ways}) == 1


def test_what_has_no_name_is_told_by_its_place(split_photos, classifier, tmp_path):
    data = next((split_photos / "test").rglob("*.png")).read_bytes()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    given = [data, b"", tmp_path / "bad.png", np.zeros((0, 5), np.uint8)]
    with pytest.raises(reslab.InputError, match="3 picture") as caught:
        classifier.predict(given)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.split(": ")[0] for line in lines] == [
        "picture 2",
        given[2].as_posix(),
        "picture 4",
    ]
    with pytest.raises(reslab.InputError, match="picture: the file is empty"):
        classifier.predict(b"")


def test_top_is_sorted_and_whole(classifier, split_photos):
    path = next((split_photos / "test").rglob("*.png"))
    found = classifier.predict(path, top=10)
    assert found.top[0].label == found.label
    assert {guess.label for guess in found.top} == set(CLASSES)
    values = [guess.probability for guess in found.top]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1)
    assert len(classifier.predict(path, top=1).top) == 1


def test_the_model_file_carries_everything(run, tmp_path):
    """Only the file, in another place, without the run folder."""
    alone = tmp_path / "模型.safetensors"
    shutil.copy(run.model, alone)
    model = load_model(alone)
    assert model.classes == tuple(sorted(CLASSES))
    assert model.preprocessing.size == (16, 16)
    assert model.spec.name == "small-resnet"
    assert not model.network.training
    with safetensors.safe_open(alone, framework="pt") as opened:
        assert set(json.loads(opened.metadata()["reslab"])) >= {
            "classes", "preprocessing", "network", "format"
        }  # fmt: skip


def test_evaluation_gives_the_run_its_score_again(run, split_photos):
    found = reslab.evaluate(run.path, split_photos, quiet=True)
    assert (found.n, found.accuracy) == (24, run.test["accuracy"])
    assert found.loss == pytest.approx(run.test["loss"], rel=1e-5)
    validation = reslab.evaluate(run.model, split_photos, split="val", quiet=True)
    assert validation.n == run.validation["n"]
    assert validation.accuracy == run.validation["accuracy"]
    assert reslab.evaluate(run.path, split_photos, split="train", quiet=True).n == 65
    assert reslab.evaluate(run.path, split_photos, split="all", quiet=True).n == 96


def test_carved_test_pictures_are_found_again(photos, tmp_path):
    """A folder a class has no test split: evaluation must not score what was trained on."""
    trained = reslab.train(photos, out=tmp_path / "r", epochs=1, quiet=True)
    found = reslab.evaluate(trained.path, photos, quiet=True)
    assert found.split == "test"
    assert found.n == trained.test["n"] == 12
    assert found.accuracy == trained.test["accuracy"]
    with (tmp_path / "r" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        assert {row["path"] for row in csv.DictReader(file)} == set(found.samples.paths)
    other = tmp_path / "other"
    fill(other, 2, start=500)
    whole = reslab.evaluate(trained.path, other, quiet=True)
    assert (whole.split, whole.n) == ("all", 6)


def test_classes_are_matched_by_name_not_by_number(run, tmp_path):
    """Data with two of three classes has other numbers for them."""
    fill(tmp_path / "some", 6, start=200)
    shutil.rmtree(tmp_path / "some" / "bird")
    found = reslab.evaluate(run.path, tmp_path / "some", quiet=True)
    assert found.n == 12
    assert found.accuracy >= 0.9
    table = found.as_dict()["class_accuracy"]
    assert table["bird"] is None


def test_indices_in_a_list_mean_the_models_classes(run, tmp_path):
    fill(tmp_path / "l", 4, start=300)
    lines = [
        f"{name}/{300 + n}.png {sorted(CLASSES).index(name)}" for name in CLASSES for n in range(4)
    ]
    (tmp_path / "l" / "some.txt").write_text("\n".join(lines), "utf-8")
    assert reslab.evaluate(run.path, tmp_path / "l" / "some.txt", quiet=True).accuracy >= 0.9


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "reslab", *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", check=False, **options,
    )  # fmt: skip


def test_predict_prints_one_object_a_picture_in_order(run, split_photos):
    folder, alone = split_photos / "test" / "猫", split_photos / "test" / "狗" / "101.png"
    done = command("predict", run.path, alone, folder, "--json", "--top", "2")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(alone), *map(str, sorted(folder.iterdir()))]
    for row in rows:
        assert row.keys() == {"path", "label", "probability", "top"}
        assert row["top"][0] == {"label": row["label"], "probability": row["probability"]}
        assert len(row["top"]) == 2
    plain = command("predict", run.path, alone)
    assert plain.stdout.startswith(f"{alone}: {rows[0]['label']} ")


def test_predict_goes_on_after_a_damaged_picture_and_says_so(run, split_photos, tmp_path):
    shutil.copytree(split_photos / "test" / "猫", tmp_path / "p")
    (tmp_path / "p" / "103.png").write_bytes(b"damaged")
    done = command("predict", run.path, tmp_path / "p", "--json")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 7
    assert "103.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_evaluate_on_the_command_line(run, split_photos, tmp_path):
    out = tmp_path / "rows.csv"
    done = command("evaluate", run.path, split_photos, "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n"] == 24
    assert found["accuracy"] == run.test["accuracy"]
    assert found["split"] == "test"
    assert out.read_bytes() == (run.path / "predictions.csv").read_bytes()


def test_train_on_the_command_line_from_a_chinese_folder(photos, tmp_path):
    done = command("train", photos, "--epochs", "1", "--json", "--optimizer.lr", "0.05",
                   "--augment.flip-horizontal=0.5", "--seed", "7", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["run"] == "runs/small-resnet-照片-1"
    folder = tmp_path / found["run"]
    assert found["test"]["n"] == 12
    assert "lr = 0.05" in (folder / "recipe.toml").read_text()
    assert "flip_horizontal = 0.5" in (folder / "recipe.toml").read_text()
    assert "照片" in done.stderr
    assert "epoch 0 (1/1)" in done.stderr
    quiet = command("train", photos, "--epochs", "1", "--quiet", cwd=tmp_path)
    assert quiet.returncode == 0
    assert quiet.stderr == ""
    assert (tmp_path / "runs/small-resnet-照片-2/model.safetensors").exists()


def test_the_same_command_twice_gives_the_same_file(photos, tmp_path):
    """Two processes, not one: no state of the first can help the second."""
    for name in ("a", "b"):
        done = command("train", photos, "--epochs", "2", "--out", tmp_path / name, "--quiet")
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert one == two


def test_a_sheet_of_ones_own_may_be_drawn_again(photos, tmp_path):
    for _ in range(2):
        assert command("preview", photos, cwd=tmp_path).returncode == 0
    (tmp_path / "preview.png").write_bytes((photos / "猫" / "000.png").read_bytes())
    refused = command("preview", photos, cwd=tmp_path)
    assert refused.returncode == 2
    assert "preview.png" in refused.stderr


def test_pictures_of_one_class_can_be_scored(run, tmp_path):
    fill(tmp_path / "cats", 6, start=400)
    for other in ("狗", "bird"):
        shutil.rmtree(tmp_path / "cats" / other)
    found = reslab.evaluate(run.path, tmp_path / "cats", quiet=True)
    assert (found.n, found.split) == (6, "all")
    assert found.accuracy >= 0.8


def test_evaluation_says_when_the_data_is_not_the_models(photos, tmp_path):
    trained = reslab.train(photos, out=tmp_path / "r", epochs=1, quiet=True)
    assert not reslab.evaluate(trained.path, photos, quiet=True).notes
    fill(photos, 1, start=900)
    found = reslab.evaluate(trained.path, photos, quiet=True)
    assert found.split == "all"
    assert any("flatter" in note for note in found.notes)


def test_preview_draws_chinese_names(photos, tmp_path):
    done = command("preview", photos, "--out", tmp_path / "样本.png", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["counts"] == {"train": 43, "validation": 5, "test": 12}
    with Image.open(tmp_path / "样本.png") as sheet:
        assert min(sheet.size) > 200


def test_chinese_names_have_glyphs(tmp_path):
    """A name drawn as boxes would look the same whatever its characters."""
    from reslab.judging.charts import draw_sheet

    def ink(name):
        white = np.full((1, 8, 8, 3), 255, dtype=np.uint8)
        draw_sheet(white, [name], tmp_path / "s.png", "", columns=1)
        with Image.open(tmp_path / "s.png") as sheet:
            return np.asarray(sheet.convert("L")).astype(int)

    cat, dog = ink("猫猫"), ink("狗狗")
    assert cat.shape == dog.shape
    assert (np.abs(cat - dog) > 60).sum() > 20


def test_names_with_markup_are_drawn_as_they_are(tmp_path):
    from reslab.judging.charts import draw_sheet

    names = ["$x^2$", "a_b^c", "[red]x[/red]", "line\nbreak", "", "x" * 300, "\x1b[31m"]
    pixels = np.zeros((len(names), 4, 4, 1), dtype=np.uint8)
    draw_sheet(pixels, names, tmp_path / "s.png", "$ title $")
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_prediction_has_bounded_memory(run):
    """Pictures are asked for as they are needed, not all at once."""
    classifier = reslab.Classifier.load(run.path)
    data = io.BytesIO()
    picture(0, 1).save(data, "PNG")
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield data.getvalue()

    stream = classifier.stream(endless())
    for _ in range(100):
        next(stream)
    assert asked <= 100 + 5 * 32
    stream.close()


def test_loading_executes_nothing_and_leaves_the_global_stream_alone(run):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    reslab.Classifier.load(run.path)
    assert torch.equal(torch.rand(1), expected)


def test_a_summary_by_recipe_file_network_and_model(run, tmp_path):
    from reslab.using.summary import summarise

    mine = tmp_path / "mine.toml"
    mine.write_text('network = "mnist-cnn"\n[preprocess]\nsize = 28\nchannels = 1\n')
    assert summarise(mine).parameters == summarise("mnist-cnn").parameters == 121_930
    assert summarise("mnist-cnn").layers[0].output == (1, 32, 26, 26)
    assert summarise("mnist-cnn").layers[0].multiply_adds == 26 * 26 * 32 * (9 + 1)
    assert summarise("photos-resnet152").trained == 20_490
    assert summarise(run.path).classes == 3


def test_what_timm_says_of_its_weights():
    from reslab.networks.catalogue import timm_config

    with pytest.raises(reslab.InputError, match=r"no such weights.*resnet50\.a1_in1k"):
        timm_config("resnet50.a1_in1")
    assert timm_config("volo_d5_512").crop_fraction == 1  # timm's is 1.15


def test_a_timm_network_with_two_heads_has_both_trained():
    from reslab.networks.catalogue import NetworkSpec, build_network
    from reslab.recipes.recipe import Recipe
    from reslab.training.preparation import freeze

    name = "deit_tiny_distilled_patch16_224"
    network = build_network(NetworkSpec(name, 3, 3, (224, 224)), 0)
    parts, (note,) = freeze(network, Recipe(network=name, weights="x", train_from="head"))
    assert parts is None
    assert "2 heads" in note
    trained = {key for key, value in network.named_parameters() if value.requires_grad}
    assert trained == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
