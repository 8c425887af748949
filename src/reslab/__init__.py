"""reslab: residual networks for pictures.

>>> run = reslab.train("digits")
>>> reslab.Classifier.load(run.path).predict("seven.png")
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Explanation",
    "InputError",
    "Prediction",
    "Recipe",
    "Run",
    "Search",
    "check",
    "compare",
    "evaluate",
    "export",
    "find_lr",
    "load_recipe",
    "predict",
    "report",
    "resume",
    "search",
    "train",
]

if "OMP_WAIT_POLICY" not in os.environ:
    # torch's threads wait for each other by spinning, which on a machine that is busy with
    # something else too made training 5 times as slow (LOG.md). Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

_HOMES = {
    "Classifier": "reslab.using.classifier",
    "InputError": "reslab.errors",
    "Explanation": "reslab.using.prediction",
    "Prediction": "reslab.using.prediction",
    "Recipe": "reslab.recipes.recipe",
    "Run": "reslab.run.folder",
    "check": "reslab.using.check",
    "Search": "reslab.searching.record",
    "compare": "reslab.reporting.comparison",
    "evaluate": "reslab.using.evaluation",
    "export": "reslab.using.exporting",
    "find_lr": "reslab.training.rate_test",
    "load_recipe": "reslab.recipes.files",
    "predict": "reslab.using.predicting",
    "report": "reslab.reporting.reports",
    "resume": "reslab.training.training",
    "search": "reslab.searching.search",
    "train": "reslab.training.training",
}

if TYPE_CHECKING:
    from reslab.errors import InputError
    from reslab.recipes.files import load_recipe
    from reslab.recipes.recipe import Recipe
    from reslab.reporting.comparison import compare
    from reslab.reporting.reports import report
    from reslab.run.folder import Run
    from reslab.searching.record import Search
    from reslab.searching.search import search
    from reslab.training.rate_test import find_lr
    from reslab.training.training import resume, train
    from reslab.using.check import check
    from reslab.using.classifier import Classifier
    from reslab.using.evaluation import evaluate
    from reslab.using.exporting import export
    from reslab.using.predicting import predict
    from reslab.using.prediction import Explanation, Prediction


def __getattr__(name: str) -> object:
    # Resolved on first use, so that `import reslab` does not import torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'reslab' has no attribute {name!r}")
