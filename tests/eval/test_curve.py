from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.curve import PRICES, frontier, mean_height, reaches_at, served

SIZES = np.array([1.0, 3.0, 5.0, 9.0])
SCORES = np.array([0.2, 0.5, 0.4, 0.8])


def test_the_frontier_is_what_mixing_reaches() -> None:
    x, y = frontier(SIZES, SCORES)
    assert x.tolist() == [1, 3, 9]
    assert y.tolist() == [0.2, 0.5, 0.8]


def test_the_frontier_ends_at_the_highest_score() -> None:
    x, y = frontier(np.array([1.0, 2.0, 8.0]), np.array([0.5, 0.6, 0.4]))
    assert x.tolist() == [1, 2]
    assert y.tolist() == [0.5, 0.6]


def test_the_mean_height_is_the_area_under_it_by_hand() -> None:
    # from 1 to 3 the mean is .35, from 3 to 9 it is .65
    assert mean_height(SIZES, SCORES, 1, 9) == pytest.approx(57.5, abs=0.01)
    assert mean_height(SIZES, SCORES, 1, 1) == pytest.approx(20)


def test_where_a_goal_is_reached() -> None:
    assert reaches_at(SIZES, SCORES, 0.65) == pytest.approx(6)
    assert reaches_at(SIZES, SCORES, 0.1) == 1
    assert reaches_at(SIZES, SCORES, 0.81) is None


def test_a_price_serves_by_expected_score_minus_cost() -> None:
    expected = np.array([[0.5, 0.6], [0.1, 0.9]])
    truth = np.array([[1.0, 0.0], [0.0, 1.0]])
    scores, active_b = served(expected, truth, np.array([1.0, 11.0]))
    assert scores[0].tolist() == [0, 1]
    assert active_b[0].tolist() == [11, 11]
    middle = int(np.argmax(PRICES > 0.02))  # .01 and .08 a B are what the big one is worth
    assert active_b[middle].tolist() == [1, 11]
    assert active_b[-1].tolist() == [1, 1]


def test_the_highest_price_leaves_the_cheapest_expert_alone() -> None:
    sizes = np.array([0.3, 0.6, 0.301])
    expected = np.array([[0.1, 0.9, 0.8], [0.0, 1.0, 0.0]])
    _, active_b = served(expected, expected, sizes)
    assert active_b[-1].tolist() == [0.3, 0.3]


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 1)), min_size=1, max_size=20),
)
def test_no_point_lies_above_the_frontier(points: list[tuple[float, float]]) -> None:
    sizes, scores = np.array(points).T
    x, y = frontier(sizes, scores)
    assert np.all(np.diff(x) >= 0)
    assert np.all(np.diff(y) >= 0)
    assert y[-1] == scores.max()
    assert np.all(scores[sizes >= x[0]] <= np.interp(sizes[sizes >= x[0]], x, y) + 1e-9)
