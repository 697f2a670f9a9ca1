"""The samplers' noise: Philox4x32-10 in tensor arithmetic, and the normals made of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dawm.philox import noise_key, philox
from dawm.world_model.noise import trajectory_noise

FULL = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123's known-answer vectors
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    words = [torch.tensor([value]) for value in counter]
    assert tuple(int(word) for word in philox((words[0], words[1], words[2], words[3]), key)) == expected


def noise(rows: list[int], draws: list[int], steps: int = 3, seed: int = 0, shape: tuple[int, int] = (8, 13)):
    return trajectory_noise(seed, torch.tensor(rows), torch.tensor(draws), (steps, *shape))


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    drawn = noise(list(range(2000)), [0] * 2000).numpy().astype(np.float64)
    assert drawn.shape == (3, 2000, 8, 13) and np.isfinite(drawn).all()
    assert stats.kstest(drawn.ravel()[:200_000], "norm").pvalue > 1e-3
    for moment, expected in enumerate([0, 1, 0, 3], start=1):
        assert abs((drawn**moment).mean() - expected) < 0.05
    flat = drawn.transpose(1, 0, 2, 3).reshape(2000, -1)  # a row for each trajectory
    correlation = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    assert np.abs(correlation).max() < 6 / np.sqrt(2000)
    across = np.corrcoef(flat[:300]) - np.eye(300)
    assert np.abs(across).max() < 6 / np.sqrt(flat.shape[1])
    assert len(np.unique(flat)) > 0.98 * flat.size  # float32 has fewer values near 0 than draws have bits


def test_noise_of_a_trajectory_is_its_own() -> None:
    """It does not depend on who shares its batch, nor its first steps on how many follow."""
    rows, draws = [5, 2**33 + 1, 5, 1], [0, 0, 1, 0]
    together = noise(rows, draws)
    for place, (row, draw) in enumerate(zip(rows, draws, strict=True)):
        assert torch.equal(noise([row], [draw])[:, 0], together[:, place])
    assert torch.equal(noise(rows, draws, steps=1)[0], together[0])
    different = [together[:, 0], together[:, 2], noise([1], [0], seed=1)[:, 0], together[:, 3], noise([1], [5])[:, 0]]
    assert len({tuple(values.flatten().tolist()) for values in different}) == 5
    assert not torch.equal(noise([1], [0])[:, 0], noise([2**32 + 1], [0])[:, 0])


def test_sizes_that_four_does_not_divide_lose_nothing() -> None:
    for size in range(1, 9):
        drawn = noise([7], [0], steps=2, shape=(1, size))
        assert drawn.shape == (2, 1, 1, size) and len(drawn.unique()) == 2 * size


@pytest.mark.parametrize("seed", [0, 1, 2**40, -3])
def test_key_is_two_words_of_any_seed_and_purpose(seed: int) -> None:
    key = noise_key(seed, "noise")
    assert all(0 <= word <= FULL for word in key)
    assert len({key, noise_key(seed + 1, "noise"), noise_key(seed, "rollout")}) == 3


def test_purposes_have_noise_of_their_own() -> None:
    rows, draws = torch.tensor([5, 9]), torch.tensor([0, 0])
    windows, rollouts = (trajectory_noise(3, rows, draws, (4, 6), purpose) for purpose in ("noise", "rollout"))
    assert windows.shape == (4, 2, 6) and not torch.isin(windows, rollouts).any()
