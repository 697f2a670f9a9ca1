"""Philox in tensor arithmetic: counter-based randomness on any device, for as many streams at once as there are.

`dawm.randomness` makes an object per stream, which costs more than the numbers of a trajectory or of a gradient step;
this is the same generator family over whole tensors. Integers agree bit for bit everywhere, normals up to the rounding
of log and cos.
"""

from __future__ import annotations

import hashlib
import math

from torch import Tensor

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what the key grows by from round to round
WORD = 0xFFFFFFFF


Word = int | Tensor


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Word, Word]) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al. 2011, §3.3): four words of 32 random bits for each counter of four words.

    counter, key: int64 tensors that broadcast, values in [0, 2³²), as are the results'. The products are taken modulo
    2⁶⁴.
    """
    a, b, c, d = counter
    for turn in range(ROUNDS):
        first, second = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        keys = [(word + turn * step) & WORD for word, step in zip(key, WEYL, strict=True)]
        a, b, c, d = (
            high_word(second) ^ b ^ keys[0],
            second & WORD,
            high_word(first) ^ d ^ keys[1],
            first & WORD,
        )
    return [a, b, c, d]


def high_word(product: Tensor) -> Tensor:
    """Bits 32 … 63; the shift of a signed number would fill up with its sign."""
    return (product >> 32) & WORD


def normal_pair(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normal float32 from two words  (Box & Muller 1958); the largest is √(2 ln 2³³) = 6.8."""
    length = ((radius.float() + 0.5) * 2.0**-32).log_().mul_(-2).sqrt_()
    turn = angle.float() * (2 * math.pi * 2.0**-32)
    return length * turn.cos(), length * turn.sin()


def noise_key(seed: int, purpose: str) -> tuple[int, int]:
    """The key of a run's noise for one purpose; seeds are of any size."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
