"""run.json as it is read: every field that something relies on, with its type."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from reslab.disk import read_regular
from reslab.errors import InputError
from reslab.pictures.data_source import DataSource
from reslab.pictures.preprocessing import Preprocessing

_LARGEST = 256 << 20  # bytes; the list of pictures that were left out may be long


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class Scores(_Part):
    """What a split's scores hold at least."""

    n: int
    correct: int
    accuracy: float
    loss: float
    accuracy_interval: list[float]


class Seconds(_Part):
    """Wall-clock seconds over all sessions of a run."""

    data: float
    features: float
    train: float = 0.0
    evaluate: float = 0.0
    total: float = 0.0


class FeatureReport(_Part):
    """How many features were computed."""

    computed: int


class Info(_Part):
    """A run's record. What has a default is not there from the start, or was not in 0.1.0."""

    status: Literal["running", "interrupted", "failed", "finished"]
    recipe: str
    network: str
    data: str
    source: dict[str, Any]
    classes: list[str]
    preprocessing: dict[str, Any]
    counts: dict[str, int]
    carved: list[str]
    left_out: list[str]
    notes: list[str]
    fingerprint: str
    frozen: str
    parameters: int
    precision: str
    precision_reason: str
    watch_test: bool
    device: str
    device_name: str
    threads: int
    versions: dict[str, str]
    seconds: Seconds
    id: str | None = None
    began: str | None = None
    files: list[str] | None = None
    arrangement: dict[str, str] = {}
    without: list[str] = []
    class_counts: dict[str, list[int]] = {}
    tensorboard: bool = False
    by_plan: bool = False
    minutes: float | None = None
    stages: list[dict[str, Any]] = []
    outlook: dict[str, Any] | None = None
    language: Literal["en", "zh"] = "en"
    extended_to: int | None = None
    process: str = ""
    processes: int = 1
    launch: str | None = None
    features: FeatureReport | None = None
    head_features: FeatureReport | None = None
    test: Scores | None = None
    validation: Scores | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    stopped_early: bool = False
    strengths: int | None = None
    best_strength: float | None = None


def read_info(path: Path) -> dict[str, Any]:
    """The content of a run.json. Raises OSError if it is no file, InputError naming its faults."""
    try:
        found = json.loads(read_regular(path, _LARGEST).decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    try:
        info = Info.model_validate(found)
        DataSource.model_validate(info.source)
        Preprocessing.model_validate(info.preprocessing)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'content'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise InputError(
            f"{path}: not as reslab wrote it; put it back, or train anew:", problems
        ) from None
    for scores in (info.test, info.validation):
        if scores is not None and len(scores.accuracy_interval) != 2:
            raise InputError(f"{path}: accuracy_interval: should be two numbers, from and to")
    return dict(found)
