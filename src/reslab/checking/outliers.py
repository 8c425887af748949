"""Outliers: pictures far from their class and from all others, as a network sees them.

Features are whitened along their main directions and brought to length 1, so that direction counts;
far is by the Mahalanobis distance with one covariance for all classes (K. Lee et al., A Simple
Unified Framework for Detecting Out-of-Distribution Samples, NeurIPS 2018). LOG.md has what else was
tried on photos of other things among food10.
"""

import numpy as np
import torch
import torch.nn.functional as F

LEAST = 20  # pictures below which nothing is usual
_DIRECTIONS = 256  # of the features, at most: those that vary most
_SHRINKAGE = 0.1  # of the covariance towards its mean variance: there may be few pictures
_FAR = 4.5  # deviations above the usual distance, robustly
_TOGETHER = 8192


def far_away(features: torch.Tensor, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of features (N, D) lie far from every class, and a score (N,) from 0 to 1."""
    if len(labels) < LEAST:
        return np.zeros(len(labels), bool), np.zeros(len(labels))
    distance = np.log(nearest_distance(_directions(features), labels) + 1e-12)
    middle = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - middle)) + 1e-9
    far = (distance - middle) / spread
    return far > _FAR, 1 - np.exp(-np.maximum(far, 0) / _FAR)


def _directions(features: torch.Tensor) -> torch.Tensor:
    """Features (N, D) whitened along their main directions, of length 1: (N, K)."""
    mean = features.mean(0)
    covariance = torch.zeros(features.shape[1], features.shape[1])
    for start in range(0, len(features), _TOGETHER):
        centred = features[start : start + _TOGETHER] - mean
        covariance += centred.T @ centred
    variance, axes = torch.linalg.eigh(covariance / len(features))
    count = min(_DIRECTIONS, len(features) // 4, len(variance))
    scale = variance[-count:].clamp(min=1e-12).rsqrt()
    found: torch.Tensor = F.normalize((features - mean) @ (axes[:, -count:] * scale))
    return found


def nearest_distance(features: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """The squared Mahalanobis distance (N,) of features (N, D) to the nearest class's mean."""
    present = np.unique(labels)
    row_of = torch.from_numpy(np.searchsorted(present, labels))
    means = torch.zeros(len(present), features.shape[1]).index_add_(0, row_of, features)
    means /= torch.bincount(row_of)[:, None]
    covariance = torch.zeros(features.shape[1], features.shape[1])
    for start in range(0, len(features), _TOGETHER):
        part = slice(start, start + _TOGETHER)
        inner = features[part] - means[row_of[part]]
        covariance += inner.T @ inner
    covariance /= len(features)
    level = float(covariance.diagonal().mean())
    covariance = (1 - _SHRINKAGE) * covariance
    covariance.diagonal().add_(_SHRINKAGE * level + 1e-9)
    factor = torch.linalg.cholesky(covariance)

    def whitened(values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.linalg.solve_triangular(factor, values.T, upper=False).T
        return found

    centres = whitened(means)
    found = [
        torch.cdist(whitened(features[start : start + _TOGETHER]), centres).min(1).values
        for start in range(0, len(features), _TOGETHER)
    ]
    return torch.cat(found).square().double().numpy()
