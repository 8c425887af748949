"""What CUDA takes other ways for: `make gpu` runs these where a GPU is."""

import json
import time

import pytest
import torch

import reslab
from launching import ended, started
from test_processes import FIVE, digests, trainings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TRAIN = """
import json, sys
import reslab
for name, (data, options) in json.loads(sys.argv[1]).items():
    reslab.train(data, out=f"{sys.argv[2]}/{name}", quiet=True, device="cuda", **options)
"""


@pytest.mark.parametrize("name", FIVE)
def test_a_run_in_parts_is_repeated_bit_for_bit(split_photos, weights, tmp_path, name):
    data, options = trainings(split_photos, weights, [name])[name]
    runs = [
        reslab.train(
            data, out=tmp_path / str(turn), parts=4, device="cuda", quiet=True, **options
        )
        for turn in range(2)
    ]  # fmt: skip
    first, second = (digests(run.path) for run in runs)
    assert first == second


def test_as_many_processes_as_there_are_gpus_give_the_bits_of_one(split_photos, weights, tmp_path):
    todo = trainings(split_photos, weights, FIVE)
    counts = [1, *range(2, min(4, torch.cuda.device_count()) + 1)]
    for count in counts:
        with started(count, TRAIN, json.dumps(todo), tmp_path / str(count)) as processes:
            assert [status for status, _, _ in ended(processes, 600)] == [0] * count
    for name in todo:
        found = [digests(tmp_path / str(count) / name) for count in counts]
        assert all(each == found[0] for each in found)


def test_more_processes_than_gpus_are_refused(tmp_path):
    count = torch.cuda.device_count() + 1
    words = "train", "digits", "--out", tmp_path / "run"
    with started(count, "from reslab.cli import main; main()", *words) as processes:
        told = ended(processes)
    assert {status for status, _, _ in told} == {2}
    assert sum(error.count("GPU(s)") for _, _, error in told) == 1


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    words = ("train", "digits", "--epochs", "20", "--device", "cuda", "--quiet")
    stopped = tmp_path / "stopped"
    with started(1, "from reslab.cli import main; main()", *words, "--out", stopped) as (process,):
        while not (stopped / "history.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        assert ended([process])[0][0] == 143
    reslab.resume(stopped, device="cuda", quiet=True)
    whole = reslab.train(
        "digits", epochs=20, parts=4, device="cuda", out=tmp_path / "whole", quiet=True
    )
    assert digests(stopped) == digests(whole.path)


def test_the_gpu_and_the_cpu_predict_alike(split_photos, tmp_path):
    run = reslab.train(split_photos, out=tmp_path / "run", epochs=4, device="cuda", quiet=True)
    found = [
        reslab.evaluate(run.path, split_photos, device=device, quiet=True)
        for device in ("cuda", "cpu")
    ]
    torch.testing.assert_close(found[0].logits, found[1].logits, rtol=1e-2, atol=1e-2)
