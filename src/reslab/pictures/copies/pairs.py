"""Near copies in a set of pictures, found once for its contents and kept in the cache."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from reslab.pictures.arrays import keep_arrays, kept_arrays
from reslab.pictures.cache import cache_folder
from reslab.pictures.content import numbered
from reslab.pictures.copies.alignment import shared
from reslab.pictures.copies.signatures import candidates
from reslab.pictures.copies.thumbs import thumbs_of
from reslab.pictures.reading import Track, untracked
from reslab.pictures.table import Samples

_FORMAT = 5  # another one where the same pictures would give other pairs
COPY = 0.5  # of the textured blocks of a copy agree: unrelated photos share under 0.3 (LOG.md)
_CROWD, _CROWD_SHARE = 20, 0.2  # near copies in one group, and of all pictures: no copies, a kind
_TOGETHER = 4096
_PLAIN = 4.0  # levels of deviation below which a picture shows nothing that could be recognised


@dataclass(frozen=True)
class Pairs:
    """Near copies: rows of samples (P,), first < second, and how much of them agrees, 0 to 1.

    alike: how many pictures are so alike, all of them, that near copies cannot be told, such as
    forms of one kind; they are in no pair.
    """

    first: np.ndarray
    second: np.ndarray
    share: np.ndarray
    alike: int = 0


def near_pairs(
    samples: Samples, thumbs: torch.Tensor | None = None, track: Track = untracked
) -> Pairs:
    """Pairs of different files that show the same picture; of identical files the first counts.

    thumbs: as `thumbs_of` gives them, if they are there already.
    Raises InputError where a picture can no longer be read.
    """
    kept, _ = numbered(samples.keys)  # in the order of their keys
    name = hashlib.sha256(b"%d" % _FORMAT + samples.keys[kept].tobytes()).hexdigest()[:32]
    path = cache_folder() / "copies" / f"{name}.safetensors"
    recalled = kept_arrays(path, _FORMAT)
    if recalled is not None:
        table = recalled[1]
    else:
        if thumbs is None:
            unique = samples.take(kept)
            table = _found(thumbs_of(unique, track))
        else:
            table = _found(thumbs[torch.from_numpy(kept)])
        keep_arrays(path, table, {"format": _FORMAT})
    one, other = table["first"].astype(np.int64), table["second"].astype(np.int64)
    group = _components(one, other, len(kept))
    crowd = np.bincount(group, minlength=1) > max(_CROWD, _CROWD_SHARE * len(kept))
    told = ~crowd[group[one]]
    first, second = kept[one[told]], kept[other[told]]
    return Pairs(
        np.minimum(first, second),
        np.maximum(first, second),
        table["share"].view(np.float32)[told],
        int(crowd[group].sum()),
    )


def groups_of(samples: Samples, pairs: Pairs) -> np.ndarray:
    """A number for each sample (N,), equal where they are copies of each other, exact or near."""
    first, same = numbered(samples.keys)
    rows = np.concatenate([np.arange(len(samples)), pairs.first])
    return _components(rows, np.concatenate([first[same], pairs.second]), len(samples))


def _components(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """A number for each of `count` rows, equal where pairs of rows lead from one to the other."""
    graph = coo_array((np.ones(len(one), bool), (one, other)), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def _found(thumbs: torch.Tensor) -> dict[str, np.ndarray]:
    parts = (thumbs[start : start + _TOGETHER] for start in range(0, len(thumbs), _TOGETHER))
    spread = torch.cat([part.float().flatten(1).std(1) for part in parts])
    rows = torch.nonzero(spread > _PLAIN)[:, 0]
    held = thumbs[rows]
    pairs = candidates(held)
    share = shared(held, pairs)
    copies = share >= COPY
    names = rows.numpy()
    return {
        "first": names[pairs.first[copies]].astype(np.int32),
        "second": names[pairs.second[copies]].astype(np.int32),
        "share": share[copies].astype(np.float32).view(np.int32),
    }
