"""Confidence: measures against plain statements of them, the temperature, sets."""

import csv
import json
import math

import numpy as np
import pytest
import torch

import reslab
from reslab.errors import InputError
from reslab.judging.calibration import MOST_KEPT, calibrate, fit_temperature, least_in_set
from reslab.judging.metrics import Judged, measured, probabilities
from reslab.networks.model_file import load_model, read_tensors, tensor_file
from reslab.pictures.names import Names
from reslab.pictures.table import Samples


def drawn(n, classes, seed, sharpness=1.0):
    """Logits whose softmax at temperature `sharpness` is the very chance of each label."""
    source = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=source, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=source)[:, 0]
    return logits * sharpness, labels


def judged(labels, classes, temperature=1.0):
    samples = Samples(Names.of(map(str, range(len(labels)))), labels.numpy())
    return Judged(samples, tuple(f"c{number}" for number in range(classes)), temperature)


@pytest.mark.parametrize("classes", [2, 5, 6, 30])
def test_measures_are_what_they_are_called(classes):
    logits, labels = drawn(300, classes, seed=classes)
    labels[labels == 1] = 0  # a class without pictures
    found = measured(logits, labels, judged(labels, classes, temperature=1.7))
    table = (logits / 1.7).softmax(1).numpy()
    said, truth = table.argmax(1), labels.numpy()
    held = [c for c in range(classes) if (truth == c).any()]
    recalls = {c: np.mean(said[truth == c] == c) for c in held}
    assert found["balanced_accuracy"] == pytest.approx(np.mean(list(recalls.values())))
    f1 = []
    for c in range(classes):
        row = found["per_class"][f"c{c}"]
        both = np.sum((said == c) & (truth == c))
        assert row["n"] == np.sum(truth == c)
        assert row["recall"] == (pytest.approx(recalls[c]) if c in held else None)
        called = np.sum(said == c)
        assert row["precision"] == (pytest.approx(both / called) if called else None)
        for name in ("recall", "precision"):
            low, high = row[f"{name}_interval"] or (0, 1)
            assert low <= (row[name] or 0) <= high
        if called or c in held:
            f1.append(2 * both / (called + np.sum(truth == c)))
    assert found["macro_f1"] == pytest.approx(np.mean(f1))
    matrix = np.array(found["confusion_matrix"])
    assert matrix.sum() == 300
    assert all(matrix[t, s] == np.sum((truth == t) & (said == s)) for t in held for s in held)
    one_hot = np.eye(classes)[truth]
    assert found["brier_score"] == pytest.approx(np.mean(((table - one_hot) ** 2).sum(1)))
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (table.max(1) >= low) & (table.max(1) < low + 1 / 15)
        if inside.any():
            gap = abs(table.max(1)[inside].mean() - (said == truth)[inside].mean())
            error += inside.mean() * gap
    assert found["expected_calibration_error"] == pytest.approx(error)
    assert sum(each["n"] for each in found["reliability"]) == 300
    if classes > 5:
        five = np.argsort(-table, axis=1)[:, :5]
        assert found["top5_accuracy"] == pytest.approx(np.mean((five == truth[:, None]).any(1)))
    else:
        assert "top5_accuracy" not in found
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_false_confidence(sharpness):
    logits, labels = drawn(5000, 10, 0, sharpness)
    fitted = fit_temperature(logits, labels)
    assert fitted == (1 if sharpness == 1 else pytest.approx(sharpness, rel=0.06))
    other, truth = drawn(5000, 10, 1, sharpness)
    calibration = calibrate(logits, labels)
    found = measured(other, truth, judged(truth, 10, calibration.temperature))
    assert found["expected_calibration_error"] < 0.025
    if sharpness != 1:
        assert found["raw"]["expected_calibration_error"] > 0.1


def test_the_temperature_is_the_best_of_all():
    """Of the posterior it is said to maximise, by trying."""
    logits, labels = drawn(40, 4, 3, 2.0)

    def posterior(t):
        loss = torch.nn.functional.cross_entropy(logits / t, labels, reduction="sum")
        return float(loss) + math.log(t) ** 2 / (2 * 0.25)

    best = fit_temperature(logits, labels)
    assert all(posterior(best) <= posterior(best * factor) + 1e-9 for factor in (0.97, 1.03))


def test_few_pictures_without_a_mistake_say_little():
    logits = 8 * torch.eye(3)[torch.arange(12) % 3]
    assert fit_temperature(logits, torch.arange(12) % 3) == 1
    assert 0.2 < fit_temperature(logits[:, :] / 8, torch.arange(12) % 3) < 0.9  # far too modest
    wrong = fit_temperature(logits, (torch.arange(12) + 1) % 3)
    assert 1 < wrong <= 20


def test_logits_of_any_size_have_a_temperature():
    for scale in (0.0, 1e-30, 1e4, 1e30):
        logits, labels = drawn(50, 3, 4)
        assert 0.05 - 1e-9 <= fit_temperature(logits * scale, labels) <= 20 + 1e-9


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_hold_the_truth_as_often_as_promised(coverage):
    """Over many draws of 99 pictures to calibrate on: the nominal share, neither less nor more."""
    held = []
    for seed in range(300):
        logits, labels = drawn(99 + 100, 6, seed, 1.5)
        calibration = calibrate(logits[:99], labels[:99])
        least = least_in_set(calibration.held, coverage, "it")
        table = probabilities(logits[99:], calibration.temperature)
        held.append(np.mean(table[np.arange(100), labels[99:].numpy()] >= least))
    spread = np.std(held) / math.sqrt(len(held))
    assert np.mean(held) == pytest.approx(coverage, abs=4 * spread + 0.002)


def test_how_many_pictures_a_coverage_needs():
    assert least_in_set((0.2,) * 19, 0.95, "it") == 0.2 * (1 - 1e-5)
    with pytest.raises(InputError, match=r"18 validation pictures are too few .* 19 are needed"):
        least_in_set((0.2,) * 18, 0.95, "it")
    assert least_in_set((0.1, *(0.5,) * 9), 0.9, "it") == 0.1 * (1 - 1e-5)
    with pytest.raises(InputError, match="has no validation pictures"):
        least_in_set((), 0.9, "it")
    for wrong in (0.0, 1.0, -1, 2, math.nan):
        with pytest.raises(InputError, match="between 0 and 1"):
            least_in_set((0.5,) * 99, wrong, "it")


@pytest.mark.parametrize("seed", range(20))
def test_a_picture_at_the_edge_of_its_set_is_in_it_in_other_digits_too(seed):
    """An export gives the probability that marks the edge up to rounding: here in float32."""
    logits, labels = drawn(99, 6, seed, 1.5)
    calibration = calibrate(logits, labels)
    least = least_in_set(calibration.held, 0.9, "it")
    own = (logits.float() / calibration.temperature).softmax(1)[np.arange(99), labels]
    # One in ten of 100 may be missed; the picture that marks the edge is the tenth.
    assert int((own >= least).sum()) == 99 - 9


def test_what_is_kept_for_sets_is_bounded():
    logits, labels = drawn(MOST_KEPT + 500, 3, 0)
    held = calibrate(logits, labels).held
    assert len(held) == MOST_KEPT
    assert list(held) == sorted(held)


def test_one_temperature_everywhere(run, split_photos, tmp_path):
    """evaluate, its table and predict show the same probabilities; raw ones differ."""
    assert load_model(run.path).temperature == run.test["temperature"]
    assert len(load_model(run.path).held) == run.validation["n"]
    tensors, header = read_tensors(run.model)
    model = tmp_path / "doubting.safetensors"
    model.write_bytes(tensor_file(tensors, header | {"temperature": 2.5}))
    found = reslab.evaluate(model, split_photos, quiet=True)
    found.write_predictions(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    classifier = reslab.Classifier.load(model)
    for row, logits in list(zip(rows, found.logits, strict=True))[::5]:
        path = split_photos / row["path"]
        shown, raw = classifier.predict(path), classifier.predict(path, raw=True)
        assert shown.label == raw.label == row["prediction"]
        expected = probabilities(logits[None], 2.5).max()
        assert shown.probability == pytest.approx(expected, rel=2e-6)
        assert float(row["probability"]) == pytest.approx(expected, rel=1e-8)
        assert raw.probability == pytest.approx(probabilities(logits[None]).max(), rel=2e-6)
        assert raw.probability > shown.probability
    assert found.measures["temperature"] == 2.5
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(found.samples.labels), 3).numpy()
    brier = ((probabilities(found.logits, 2.5) - one_hot) ** 2).sum(1).mean()
    assert found.measures["brier_score"] == pytest.approx(brier)
    assert found.measures["raw"]["brier_score"] < brier  # it was right, and is made to doubt


def test_a_run_keeps_the_temperature_of_its_validation_split(tmp_path):
    """Label smoothing makes it far too modest, which enough validation pictures show clearly."""
    run = reslab.train(
        "digits", out=tmp_path / "r", epochs=3, seed=0, quiet=True,
        fields={"label_smoothing": 0.4, "split.validation": 400},
    )  # fmt: skip
    model = load_model(run.path)
    assert model.temperature < 0.8
    assert run.test["temperature"] == run.validation["temperature"] == model.temperature
    assert (
        run.test["expected_calibration_error"] < run.test["raw"]["expected_calibration_error"] / 2
    )
    found = reslab.evaluate(run.path, "digits", split="validation", quiet=True)
    labels = torch.from_numpy(found.samples.labels)
    assert fit_temperature(found.logits, labels) == pytest.approx(model.temperature, rel=1e-4)


def test_a_model_of_0_1_0_predicts_as_it_did(run, split_photos, tmp_path):
    """Its header has neither temperature nor what sets need."""
    tensors, header = read_tensors(run.model)
    del header["temperature"], header["held"]
    (tmp_path / "old.safetensors").write_bytes(tensor_file(tensors, header))
    old = reslab.Classifier.load(tmp_path / "old.safetensors")
    paths = sorted((split_photos / "test").rglob("*.png"))
    assert old.predict(paths) == reslab.Classifier.load(run.path).predict(paths, raw=True)
    with pytest.raises(InputError, match="has no validation pictures"):
        old.predict(paths[0], coverage=0.9)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0), ("temperature", -1), ("temperature", "NaN"), ("temperature", None),
     ("held", [2.0]), ("held", ["a"]), ("held", 3)],
)  # fmt: skip
def test_a_header_of_nonsense_is_refused(name, value, run, tmp_path):
    tensors, header = read_tensors(run.model)
    (tmp_path / "m.safetensors").write_bytes(tensor_file(tensors, header | {name: value}))
    with pytest.raises(InputError, match=f"header field {name}"):
        load_model(tmp_path / "m.safetensors")


def test_unknown_and_sets_of_pictures(run, split_photos):
    classifier = reslab.Classifier.load(run.path)
    paths = sorted((split_photos / "test").rglob("*.png"))
    plain = classifier.predict(paths)
    middle = sorted(found.probability for found in plain)[len(plain) // 2]
    for before, found in zip(plain, classifier.predict(paths, unknown_below=middle), strict=True):
        assert found.unknown == (before.probability < middle)
        assert found.label == ("unknown" if found.unknown else before.label)
        assert found.top == before.top
    assert {found.unknown for found in classifier.predict(paths, unknown_below=middle)} == {
        True, False
    }  # fmt: skip
    least = least_in_set(classifier.model.held, 0.8, "it")
    for found in classifier.predict(paths, 3, coverage=0.8):
        wanted = [guess.label for guess in found.top if guess.probability >= least]
        assert list(found.set) == (wanted or [found.top[0].label])
    with pytest.raises(InputError, match="7 validation pictures are too few"):
        classifier.predict(paths, coverage=0.95)
    with pytest.raises(InputError, match="calibrated"):
        classifier.predict(paths, coverage=0.8, raw=True)
    with pytest.raises(InputError, match="from 0 to 1"):
        classifier.predict(paths, unknown_below=80)
