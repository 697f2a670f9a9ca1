"""The CDF normalizer: round trip, order, atoms, bounds, and that it travels with the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from dawm.data.cdf_normalizer import KNOTS, CDFNormalizer

some_data = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 60), st.integers(1, 3)),
    elements=st.one_of(
        st.floats(-1000, 1000, width=32, allow_subnormal=False), st.sampled_from([-10.0, 0.0, 10.0]).map(np.float32)
    ),
)


def clipped_velocities(count: int = 20_000) -> Tensor:
    """Two dimensions: about a third clipped at ±10, and none."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([np.clip(rng.normal(0, 10, count), -10, 10), rng.normal(3, 2, count)], 1)).float()


@given(some_data)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_data_come_back_from_their_codes(data: np.ndarray) -> None:
    values = torch.from_numpy(data)
    fitted = CDFNormalizer.fit(values)
    codes = fitted.encode(values)
    assert codes.shape == values.shape and torch.all(codes.abs() <= 1)
    slack = 1e-5 * np.ptp(data, axis=0).max() + 1e-6 * np.abs(data).max()
    np.testing.assert_allclose(fitted.decode(codes), values, rtol=0, atol=slack)


@given(some_data, some_data)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_both_ways_keep_the_order_of_any_values(data: np.ndarray, other: np.ndarray) -> None:
    fitted = CDFNormalizer.fit(torch.from_numpy(data))
    dimensions = data.shape[1]
    asked = torch.from_numpy(np.sort(np.concatenate([data.ravel(), other.ravel()])))[:, None].repeat(1, dimensions)
    assert torch.all(fitted.encode(asked).diff(dim=0) >= 0)
    codes = torch.linspace(-1.2, 1.2, 501)[:, None].repeat(1, dimensions)
    assert torch.all(fitted.decode(codes).diff(dim=0) >= 0)


@given(some_data)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_codes_beyond_the_range_decode_to_the_datas_ends(data: np.ndarray) -> None:
    values = torch.from_numpy(data)
    fitted = CDFNormalizer.fit(values)
    low, high = fitted.encoded_range()
    assert torch.all(low == -1) and torch.all(high == 1)
    for code, end in ((-1.0, values.amin(0)), (-3.0, values.amin(0)), (1.0, values.amax(0)), (9.0, values.amax(0))):
        assert torch.equal(fitted.decode(torch.full_like(end, code)), end)


def test_values_outside_of_the_data_are_clipped() -> None:
    values = clipped_velocities()
    fitted = CDFNormalizer.fit(values)
    far = torch.tensor([[-50.0, -50.0], [50.0, 50.0]])
    ends = torch.stack([values.amin(0), values.amax(0)])
    assert torch.equal(fitted.encode(far), fitted.encode(ends))


def test_codes_are_uniform_where_there_are_no_atoms() -> None:
    codes = CDFNormalizer.fit(clipped_velocities()).encode(clipped_velocities())[:, 1].double().sort().values
    np.testing.assert_allclose(codes, np.linspace(-1, 1, len(codes)), atol=2e-3)
    np.testing.assert_allclose(float(codes.std()), CDFNormalizer.SPREAD, rtol=1e-3)


def test_the_whole_interval_of_an_atom_maps_back_to_it() -> None:
    values = clipped_velocities()
    fitted = CDFNormalizer.fit(values)
    below = float((values[:, 0] == -10).double().mean())  # the share of the rows that is clipped at -10
    assert 0.1 < below < 0.2
    inside = torch.linspace(-1.0, 2 * below - 1, 1001)[:, None].repeat(1, 2)
    assert torch.all(fitted.decode(inside)[:, 0] == -10)
    beyond = torch.full((1, 2), 2 * below - 1 + 1e-3)
    assert fitted.decode(beyond)[0, 0] > -10
    np.testing.assert_allclose(fitted.encode(torch.full((1, 2), -10.0))[0, 0], below - 1, atol=1e-6)  # the middle


def test_atoms_inside_the_range_and_beside_each_other_keep_their_intervals() -> None:
    column = torch.tensor([0.0] * 40 + [1.0] * 40 + [2.0] + [3.0] * 20)[:, None]
    fitted = CDFNormalizer.fit(column)
    share = torch.tensor([0.1, 0.39, 0.41, 0.78, 0.83, 0.99])[:, None] * 100 / 101
    assert fitted.decode(2 * share - 1).flatten().tolist() == [0, 0, 1, 1, 3, 3]
    np.testing.assert_allclose(fitted.decode(fitted.encode(column)), column, atol=1e-5)


def test_a_constant_dimension_stays_what_it_is() -> None:
    fitted = CDFNormalizer.fit(torch.full((5, 1), 7.0))
    assert torch.equal(fitted.encode(torch.tensor([[7.0], [8.0]])), torch.zeros(2, 1))
    assert torch.equal(fitted.decode(torch.linspace(-2, 2, 9)[:, None]), torch.full((9, 1), 7.0))


@pytest.mark.parametrize("count", [1, 3, 5000, 300_000])
def test_its_size_does_not_depend_on_the_data(count: int) -> None:
    values = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    fitted = CDFNormalizer.fit(values)
    assert {key: value.shape for key, value in fitted.state_dict().items()} == {
        "values": (2, KNOTS),
        "codes": (2, KNOTS),
    }
    np.testing.assert_allclose(fitted.decode(fitted.encode(values)), values, atol=3e-4)
    other = CDFNormalizer(2)
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other.encode(values), fitted.encode(values))


def test_any_leading_shape_is_encoded_alike() -> None:
    values = clipped_velocities(600)
    fitted = CDFNormalizer.fit(values)
    together = fitted.encode(values.view(20, 30, 2))
    assert torch.equal(together.view(600, 2), fitted.encode(values))
    assert torch.equal(fitted.decode(together).view(600, 2), fitted.decode(fitted.encode(values)))
