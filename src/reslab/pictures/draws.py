"""Randomness with an address.

Every draw is a function of (seed, purpose, epoch, sample or step); no global stream decides
anything. So a result depends neither on the number of threads nor on where a run was resumed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def address(seed: int, *parts: int | str) -> int:
    """A 63-bit number for an address such as (seed, "order", epoch)."""
    text = "/".join(str(part) for part in (seed, *parts))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *parts: int | str) -> torch.Generator:
    """A torch generator (on the CPU) that starts at an address."""
    return torch.Generator().manual_seed(address(seed, *parts))


def distributions(seed: int, *parts: int | str) -> np.random.Generator:
    """A numpy generator that starts at an address, for distributions that torch has not."""
    return np.random.default_rng(address(seed, *parts))


@contextmanager
def torch_stream(seed: int, *parts: int | str, device: str = "cpu") -> Iterator[None]:
    """Let torch's global stream start at an address inside the block, and put it back after.

    Layer constructors and dropout draw from the global stream and take no generator.
    """
    if device == "cpu":
        # torch's own fork asks for GPUs each time: a twentieth of a small network's step.
        stream = torch.default_generator
        before = stream.get_state()
        stream.manual_seed(address(seed, *parts))
        try:
            yield
        finally:
            stream.set_state(before)
    else:
        with torch.random.fork_rng(device_type=device.split(":")[0]):
            torch.manual_seed(address(seed, *parts))
            yield


def mixed(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values, each on its own: the finaliser of SplitMix64.

    Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """
    z = values.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def uniform(start: int, keys: np.ndarray, count: int) -> np.ndarray:
    """`count` draws in [0, 1) for each of N sample keys: float64 of shape (N, count).

    A sample's draws depend on the address `start` and on its own key only, not on the batch
    it stands in.
    """
    base = mixed(keys.astype(np.uint64) ^ np.uint64(start))
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = mixed(base[:, None] + steps[None, :])
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)
