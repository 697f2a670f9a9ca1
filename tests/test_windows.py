"""Returns-to-go, windows and normalizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dawm.config import WorldModelSettings
from dawm.data.normalizers import ActionScaler, MinMaxScaler, Standardizer
from dawm.data.transitions import Transitions
from dawm.data.windows import Normalizers, Windows, returns_of_steps, returns_to_go, wanted_returns

LENGTHS, ENDS = (5, 8, 1, 3, 2, 6), ("terminal", "timeout", "terminal", "terminal", "timeout", "timeout")


def toy(lengths: tuple[int, ...] = LENGTHS, ends: tuple[str, ...] = ENDS) -> Transitions:
    """Episodes whose state is (episode, step), so that every row says where it belongs."""
    episode = np.repeat(np.arange(len(lengths)), lengths)
    step = np.concatenate([np.arange(length) for length in lengths])
    last = step == np.array(lengths)[episode] - 1
    kind = np.array(ends)[episode]
    rng = np.random.default_rng(3)
    return Transitions.real(
        observation=np.stack([episode, step], axis=1),
        action=rng.uniform(-1, 1, (len(step), 1)),
        reward=rng.uniform(1, 3, len(step)),
        next_observation=np.stack([episode, step + 1], axis=1),
        terminal=last & (kind == "terminal"),
        timeout=last & (kind == "timeout"),
    )


def identities(changes: Standardizer | None = None) -> Normalizers:
    """Those that change nothing."""
    rewards = MinMaxScaler()
    rewards.low = torch.tensor(-1.0)
    return Normalizers(Standardizer(2), rewards, ActionScaler(1), changes)


def windows_of(
    data: Transitions,
    window: int,
    episodes: np.ndarray | None = None,
    successors_known: bool = True,
    joint: bool = False,
    conditional: bool = True,
    normalizers: Normalizers | None = None,
) -> Windows:
    rows = np.ones(len(data), bool) if episodes is None else episodes
    settings = WorldModelSettings(window=window, actions="joint" if joint else "inferred", conditional=conditional)
    return Windows(data, rows, settings, returns_to_go(data, 0.9), normalizers or identities(), successors_known)


# --- returns-to-go ----------------------------------------------------------------------------------------------


def discounted_sums(data: Transitions, discount: float) -> list[float]:
    """Σ_k γ^k r_{t+k} over the rows of t's own episode, by a double loop."""
    sums = []
    for t in range(len(data)):
        total = 0.0
        for k in range(len(data) - t):
            if data.episode[t + k] == data.episode[t]:
                total += discount**k * float(data.reward[t + k])
        sums.append(total)
    return sums


def rows_to_the_end(data: Transitions) -> np.ndarray:
    """How many rewards each row still has before its episode ends, its own included."""
    return np.array([sum(data.episode[u] == data.episode[t] for u in range(t, len(data))) for t in range(len(data))])


def ends_by_timeout(data: Transitions) -> np.ndarray:
    return np.array([any(data.timeout[data.episode == episode]) for episode in data.episode])


@pytest.mark.parametrize("discount", [0.5, 0.9, 1.0])
def test_return_to_go_is_the_discounted_sum_to_the_terminal(discount: float) -> None:
    data = toy()
    found, ended = returns_to_go(data, discount), ~ends_by_timeout(data)
    np.testing.assert_allclose(found[ended], np.array(discounted_sums(data, discount))[ended], rtol=1e-6)


@pytest.mark.parametrize("discount", [0.5, 0.65, 0.75, 0.9, 1.0])
def test_return_to_go_is_unknown_exactly_where_the_part_cut_off_weighs_more_than_a_tenth(discount: float) -> None:
    data = toy()
    found = returns_to_go(data, discount, "drop")
    unknown = ends_by_timeout(data) & (discount ** rows_to_the_end(data) > 0.1)
    np.testing.assert_array_equal(np.isnan(found), unknown)
    np.testing.assert_allclose(found[~unknown], np.array(discounted_sums(data, discount))[~unknown], rtol=1e-6)


@pytest.mark.parametrize("discount", [0.5, 0.9])
def test_average_reward_tail_goes_on_after_a_timeout_and_not_after_a_terminal(discount: float) -> None:
    data = toy()
    expected = np.array(discounted_sums(data, discount))
    for t, left in enumerate(rows_to_the_end(data)):
        if ends_by_timeout(data)[t]:
            mean = np.mean([float(r) for r in data.reward[data.episode == data.episode[t]]])
            for k in range(left, left + 400):  # 0.9^400 is nothing
                expected[t] += discount**k * mean
    np.testing.assert_allclose(returns_to_go(data, discount, "average_reward_tail"), expected, rtol=1e-6)


@pytest.mark.parametrize("discount", [0.5, 0.9, 1.0])
def test_return_as_it_is_sums_what_there_is_also_before_a_timeout(discount: float) -> None:
    data = toy()
    settings = WorldModelSettings(window=3, discount=discount, truncated_return="as_is")
    np.testing.assert_allclose(wanted_returns(data, settings), discounted_sums(data, discount), rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4, 20])
@pytest.mark.parametrize("discount", [0.5, 1.0])
def test_returns_of_some_steps_end_with_them_or_a_terminal_and_are_unknown_before_a_timeout(
    steps: int, discount: float
) -> None:
    data = toy()
    found, left, cut = returns_of_steps(data, discount, steps), rows_to_the_end(data), ends_by_timeout(data)
    for t in range(len(data)):
        inside = range(min(steps, left[t]))
        expected = np.nan if cut[t] and left[t] < steps else sum(discount**k * data.reward[t + k] for k in inside)
        np.testing.assert_allclose(found[t], expected, rtol=1e-5)


def test_the_condition_follows_the_settings() -> None:
    data = toy()
    episode = WorldModelSettings(window=3, discount=0.9)
    window = WorldModelSettings(window=3, discount=0.9, return_horizon="window")
    np.testing.assert_array_equal(wanted_returns(data, episode), returns_to_go(data, 0.9))
    np.testing.assert_array_equal(wanted_returns(data, window), returns_of_steps(data, 0.9, 2))


def test_returns_to_go_of_collected_data_agree_with_the_definition(transitions: Transitions) -> None:
    found = returns_to_go(transitions, 0.99)
    begins = np.flatnonzero(transitions.step == 0)
    for begin, end in zip(begins, [*begins[1:], len(transitions)], strict=True):
        for t in {begin, (begin + end) // 2, end - 1}:
            missing = transitions.timeout[end - 1] and 0.99 ** (end - t) > 0.1
            expected = sum(0.99**k * float(r) for k, r in enumerate(transitions.reward[t:end]))
            np.testing.assert_allclose(found[t], np.nan if missing else expected, rtol=1e-5)


# --- windows ----------------------------------------------------------------------------------------------------


def test_window_inside_an_episode_holds_its_rows_and_hides_what_is_given_or_lies_outside() -> None:
    data = toy((6,), ("terminal",))
    found = windows_of(data, 3).batch(torch.tensor([1]))
    r = data.reward
    expected = [[0, 1, r[1], -1], [0, 2, r[2], -1], [0, 3, r[3], -1]]  # episode, step, reward, not ended
    np.testing.assert_allclose(found.rows[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(found.mask[0], [[0, 0, 1, 0], [1, 1, 1, 1], [1, 1, 0, 1]])
    np.testing.assert_array_equal(found.action[0], data.action[1])


def test_window_after_a_terminal_holds_rows_of_a_whole_one_and_only_the_terminal_counts_there() -> None:
    data = toy((3, 6), ("terminal", "timeout"))
    found = windows_of(data, 5).batch(torch.tensor([1, 3, 4]))  # from step 1 of the first episode, 0 and 1 of the other
    r = data.reward
    expected = [[0, 1, r[1], -1], [0, 2, r[2], -1], [0, 3, r[5], 1], [1, 3, r[6], 1], [1, 4, r[7], 1]]
    np.testing.assert_allclose(found.rows[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(found.mask[0], [[0, 0, 1, 0], [1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]])


def test_padding_is_of_another_window_at_every_step() -> None:
    """Or the network could learn by heart what follows an end."""
    data = toy((3, 9), ("terminal", "timeout"))
    windows = windows_of(data, 5, joint=True)
    first, second = (windows.batch(torch.tensor([1, other])) for other in (3, 4))
    assert torch.equal(first.rows[0, :2], second.rows[0, :2]) and torch.equal(first.mask[0], second.mask[0])
    for batch in (first, second):
        ends = batch.rows[0, 2:, 2:4], batch.rows[0, 3:, :2]  # action and reward; the state is real for one row more
        assert torch.equal(ends[0], batch.rows[1, 2:, 2:4]) and torch.equal(ends[1], batch.rows[1, 3:, :2])
    assert not torch.equal(first.rows[0, 3:, :4], second.rows[0, 3:, :4])


def test_windows_without_a_whole_one_beside_them_repeat_their_end() -> None:
    data = toy((3,), ("terminal",))
    found = windows_of(data, 5).batch(torch.tensor([1]))
    r = data.reward
    expected = [[0, 1, r[1], -1], [0, 2, r[2], -1], [0, 3, r[2], 1], [0, 3, r[2], 1], [0, 3, r[2], 1]]
    np.testing.assert_allclose(found.rows[0], expected, rtol=1e-6)


def test_windows_of_changes_hold_the_step_from_the_row_before() -> None:
    data = toy((3, 6), ("terminal", "timeout"))
    absolute, changes = (
        windows_of(data, 5, normalizers=identities(normalizer)).batch(torch.tensor([1, 3]))
        for normalizer in (None, Standardizer(2))
    )
    assert changes.rows[0, :, :2].tolist() == [[0, 1], [0, 1], [0, 1], [0, 1], [0, 1]]  # behind the end, too
    assert torch.equal(changes.rows[:, :3, :2].cumsum(1), absolute.rows[:, :3, :2])
    assert torch.equal(changes.rows[..., 2:], absolute.rows[..., 2:])
    assert torch.equal(changes.mask, absolute.mask)


def test_unknown_terminal_successors_are_padding_and_their_terminals_are_not() -> None:
    data = toy((3, 6), ("terminal", "timeout"))
    known, unknown = (windows_of(data, 5, successors_known=flag).batch(torch.tensor([1, 3])) for flag in (True, False))
    mask, rows = known.mask.clone(), known.rows.clone()
    mask[0, 2, :2], rows[0, 2, :2] = 0, rows[1, 2, :2]  # the terminal state itself
    assert torch.equal(unknown.mask, mask)
    assert torch.equal(unknown.rows, rows)


@pytest.mark.parametrize("window", [2, 3, 4, 7])
@pytest.mark.parametrize("successors_known", [True, False])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("conditional", [True, False])
def test_every_window_agrees_with_a_loop_over_its_rows(
    window: int, successors_known: bool, joint: bool, conditional: bool
) -> None:
    """Of what is generated, everything counts but padding, what is given in row 0, and what belongs to no transition
    of the window: the last row's action and reward, and whether an episode had ended when it began."""
    data = toy()
    windows = windows_of(data, window, None, successors_known, joint, conditional)
    batch = windows.batch(torch.arange(len(windows)))
    left, cut = rows_to_the_end(data), ends_by_timeout(data)
    starts = [t for t in range(len(data)) if left[t] >= window - 1 or not cut[t]]
    assert windows.starts.tolist() == starts
    donors = [t for t in starts if left[t] >= window - 1]
    for number, start in enumerate(starts):
        donor = donors[number % len(donors)]
        for i in range(window):
            inside, over = i < left[start], i >= left[start] and not cut[start]
            real = i == 0 or (i <= left[start] and (successors_known or not over))
            state = data.observation[start] if i == 0 else data.next_observation[(start if real else donor) + i - 1]
            at = start + i if inside else donor + min(i, left[donor] - 1)
            expected = [*state, *[data.action[at, 0]] * joint, data.reward[at], 1.0 if over else -1.0]
            np.testing.assert_allclose(batch.rows[number, i], expected, rtol=1e-6)
            generated = i > 0 or not conditional
            state_counts = generated and real
            whole = inside and i < window - 1
            expected_mask = [state_counts, state_counts, *[whole and generated] * joint, whole, i > 0]
            np.testing.assert_array_equal(batch.mask[number, i], np.array(expected_mask, float))


def test_single_transitions_of_an_unconditional_joint_model_count_as_a_whole() -> None:
    """SynthER's row: s, a, r, s′ and whether s′ is terminal."""
    data = toy((3,), ("terminal",))
    found = windows_of(data, 2, joint=True, conditional=False).batch(torch.tensor([0, 2]))
    once = [[1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    np.testing.assert_array_equal(found.mask, [once, once])
    assert found.rows[:, 1, -1].tolist() == [-1, 1]


@pytest.mark.parametrize("window", [2, 3, 6])
def test_windows_never_cross_into_another_episode(window: int) -> None:
    """But for padding, which is no target."""
    data = toy()
    windows = windows_of(data, window)
    batch = windows.batch(torch.arange(len(windows)))
    episode, step, real = batch.rows[..., 0], batch.rows[..., 1], batch.mask[..., 0] > 0
    real[:, 0] = True
    assert torch.equal(episode[real], episode[:, :1].expand_as(episode)[real])
    assert torch.all((step <= torch.tensor(LENGTHS)[episode.long()])[real])


def test_only_the_chosen_episodes_have_windows() -> None:
    data = toy()
    chosen = np.isin(data.episode, [0, 1, 5])
    windows = windows_of(data, 3, chosen)
    batch = windows.batch(torch.arange(len(windows)))
    assert set(batch.rows[..., 0].flatten().tolist()) == {0.0, 1.0, 5.0}


def test_window_knows_whether_its_return_is_known() -> None:
    data = toy()
    windows = windows_of(data, 2)
    batch = windows.batch(torch.arange(len(windows)))
    wanted = returns_to_go(data, 0.9)[windows.starts]
    np.testing.assert_array_equal(batch.known, ~np.isnan(wanted))
    np.testing.assert_array_equal(batch.return_to_go, np.nan_to_num(wanted))
    assert 0 < int(batch.known.sum()) < len(windows)


# --- normalizers ------------------------------------------------------------------------------------------------


def test_standardizer_has_the_mean_deviation_and_range_of_its_data() -> None:
    values = np.random.default_rng(0).normal([3, -50], [0.1, 20], (500, 2)).astype(np.float32)
    fitted = Standardizer.fit(torch.from_numpy(values))
    exact = values.astype(np.float64)
    mean = exact.sum(0) / 500
    np.testing.assert_allclose(fitted.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(fitted.std, np.sqrt(((exact - mean) ** 2).sum(0) / 500), rtol=1e-6)
    encoded = fitted.encode(torch.from_numpy(values))
    np.testing.assert_allclose(fitted.decode(encoded), values, rtol=1e-5, atol=1e-5)
    low, high = fitted.encoded_range()
    assert torch.equal(low, encoded.amin(0)) and torch.equal(high, encoded.amax(0))


def test_standardizer_leaves_a_constant_dimension_finite() -> None:
    fitted = Standardizer.fit(torch.tensor([[1.0, 7.0], [2.0, 7.0]]))
    assert fitted.std[1] == 1
    assert torch.equal(fitted.encode(torch.tensor([[1.5, 7.0]])), torch.zeros(1, 2))


def test_rewards_fill_minus_one_to_one() -> None:
    fitted = MinMaxScaler.fit(torch.tensor([2.0, 6.0, 3.0]))
    np.testing.assert_allclose(fitted.encode(torch.tensor([2.0, 3.0, 6.0])), [-1.0, -0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(fitted.decode(torch.tensor([-1.0, -0.5, 1.0])), [2.0, 3.0, 6.0], rtol=1e-6)


def test_constant_rewards_stay_finite() -> None:
    fitted = MinMaxScaler.fit(torch.full((4,), 5.0))
    assert fitted.decode(fitted.encode(torch.tensor(5.0))) == 5.0
