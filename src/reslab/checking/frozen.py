"""What a network makes of the pictures before its head: by that, labels and outliers are judged."""

import numpy as np
import torch
from torch import fx

from reslab.checking.issues import Issue, issue_of
from reslab.checking.labels import doubts
from reslab.checking.looks import Looked
from reslab.checking.outliers import far_away
from reslab.features.extraction import EVALUATION, Features, ViewSettings
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.settings import Augmentation
from reslab.run.display import Display

DOUBTED = 0.8  # another class is four times as likely, out of fold


def features_of(
    looked: Looked,
    before: fx.GraphModule,
    preprocessing: Preprocessing,
    device: str,
    display: Display,
) -> torch.Tensor:
    """Features (N, D) of all pictures, from the cache where they are known.

    before: the network's part before its head. Raises InputError where a picture can no longer be
    read, or there is no room for the features.
    """
    settings = ViewSettings(preprocessing, preprocessing, Augmentation(), 0)
    features = Features(before, settings, "fp32", device)
    splits = [samples for _, samples in looked.pictures]
    lacking = features.missing((samples, (EVALUATION,)) for samples in splits)
    features.make_room(len(lacking))
    for _ in display.counted(features.compute(lacking), "features", len(lacking)):
        pass
    parts = [features.take(samples, EVALUATION, torch.arange(len(samples))) for samples in splits]
    return torch.cat(parts).flatten(1)


def feature_issues(looked: Looked, features: torch.Tensor, groups: np.ndarray) -> list[Issue]:
    """Labels that are likely wrong, and outliers, by features (N, D); copies share a group."""
    found = []
    if len(np.unique(looked.labels)) > 1:
        doubted = doubts(features, looked.labels, groups, len(looked.classes))
        for row in np.flatnonzero(doubted.judged & (doubted.score >= DOUBTED)).tolist():
            suggested = looked.classes[doubted.suggested[row]]
            found.append(issue_of(looked, row, "label", doubted.score[row], suggested=suggested))
    far, score = far_away(features, looked.labels)
    far_rows = np.flatnonzero(far).tolist()
    return found + [issue_of(looked, row, "outlier", score[row]) for row in far_rows]
