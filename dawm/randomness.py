"""Counter-based randomness: every draw is a function of (seed, what it is for, which one), never of what ran before."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """An independent Philox stream for (seed, *purpose), e.g. generator(0, "starts", draw)."""
    text = "/".join(str(part) for part in (seed, *purpose))
    key = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A 31-bit seed for a library that wants an integer (gymnasium's reset, torch.manual_seed)."""
    return int(generator(seed, *purpose).integers(2**31))
