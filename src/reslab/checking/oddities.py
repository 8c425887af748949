"""Odd pictures: what no label can be read from, or what differs from all others by itself.

The limits were set by looking at what they find among food10's 5,000 photos and at pictures made
odd on purpose (LOG.md); where a whole set is so, such as grey digits, nothing is odd.
"""

import numpy as np

from reslab.checking.issues import Issue, issue_of
from reslab.checking.looks import Looked, suffix_of

_TINY, _TINY_OFUSUAL = 16, 0.25  # pixels of the shorter side, and of the usual one
_LONG = 3.0  # a side by the other
_PLAIN = 4.0  # levels of deviation
_DARK, _LIGHT = 40, 215  # levels that nearly all pixels lie below, or above
GREY = 1.5  # levels between a pixel's channels
_BLURRED = -3.5  # deviations below the usual sharpness, robustly
_BLURRED_AT_MOST = 0.03
USUAL = 0.2  # share of a set from which what would be odd is its kind
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "DIB": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
_KNOWN_SUFFIXES = {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes}


def odd_issues(looked: Looked) -> list[Issue]:
    """Tiny, long, plain, dark, light, blurred and grey pictures, and turned ones."""
    looks = looked.looks
    short = np.minimum(looks["width"], looks["height"])
    long = np.maximum(looks["width"], looks["height"]) / np.maximum(short, 1)
    plain = looks["spread"] < _PLAIN
    usual = float(np.median(short))
    findings = {
        "tiny": (short < max(_TINY_OFUSUAL * usual, min(_TINY, usual)), 1 - short / usual),
        "long": (long > _LONG, 1 - 1 / long),
        "plain": (plain, 1 - looks["spread"] / _PLAIN),
        "dark": (looks["light"] < _DARK, 1 - looks["light"] / _DARK),
        "light": (looks["dark"] > _LIGHT, looks["dark"] / 255),
        "blurred": _blurred(looks, ~plain & (short >= 2 * _TINY)),
        "grey": (looks["colour"] < GREY, 1 - looks["colour"] / GREY),
        "turned": (looks["orientation"] != 1, np.ones(len(looks))),
    }
    found = []
    for what, (odd, score) in findings.items():
        if 0 < odd.sum() <= max(1, USUAL * len(odd)):
            found += [
                issue_of(looked, row, "odd", float(np.clip(score[row], 0, 1)), finding=what)
                for row in np.flatnonzero(odd).tolist()
            ]
    return found


def _blurred(looks: np.ndarray, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Less sharp than the set by far, and by itself; scores grow with the distance."""
    if judged.sum() < 20:
        return np.zeros(len(looks), bool), np.zeros(len(looks))
    sharp = np.log(looks["sharpness"] + 1e-4)
    middle = np.median(sharp[judged])
    spread = 1.4826 * np.median(np.abs(sharp[judged] - middle)) + 1e-6
    far = (sharp - middle) / spread
    blurred = judged & (far < _BLURRED) & (looks["sharpness"] < _BLURRED_AT_MOST)
    return blurred, 1 - np.exp(far / 4)


def mismatched_issues(looked: Looked) -> list[Issue]:
    """Files whose type differs from what their name says."""
    found = []
    for row, written_as in enumerate(looked.formats):
        suffix = suffix_of(looked.path(row))
        fitting = _SUFFIXES.get(written_as)
        if fitting is not None and suffix in _KNOWN_SUFFIXES and suffix not in fitting:
            found.append(issue_of(looked, row, "mismatched-type", 1.0, other=written_as))
    return found
