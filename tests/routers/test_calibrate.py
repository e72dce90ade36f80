from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.base import FloatArray, decide
from routers.calibrate import Goal, choose_min_confidence, fit_temperature, tempered
from routers.metrics import Answers

CATEGORIES = ("coding", "general", "math")


def rows(*confidences: float, category: str = "coding") -> FloatArray:
    """Make rows that are this sure of a category."""
    column = CATEGORIES.index(category)
    made = np.array([[(1 - c) / 2] * 3 for c in confidences]).reshape(-1, 3)
    made[:, column] = confidences
    return made


def answers(probabilities: FloatArray, labels: list[str]) -> Answers:
    return Answers.of(probabilities, labels, CATEGORIES, min_confidence=0.0)


def test_temperature_makes_too_sure_answers_honest() -> None:
    sure = rows(*[0.99] * 100)
    truth = np.array([0] * 70 + [2] * 30)
    temperature = fit_temperature(sure, truth)
    assert temperature > 1
    assert tempered(sure, temperature)[0, 0] == pytest.approx(0.7, abs=0.02)


def test_temperature_makes_shy_answers_surer() -> None:
    assert fit_temperature(rows(*[0.4] * 50), np.zeros(50, dtype=np.int64)) < 1


def test_without_texts_the_temperature_is_one() -> None:
    assert fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64)) == 1


def test_temperature_one_changes_nothing() -> None:
    np.testing.assert_allclose(tempered(rows(0.6, 0.9), 1.0), rows(0.6, 0.9))


@given(
    st.lists(st.floats(0.34, 1), min_size=1, max_size=30),
    st.lists(st.floats(0.34, 0.999), max_size=30),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_the_threshold_keeps_the_coverage_or_reaches_the_aim(
    inside: list[float], outside: list[float], coverage: float, share: float
) -> None:
    labels = [CATEGORIES[i % 3] for i in range(len(inside))]
    goal = Goal(min_coverage=coverage, out_of_scope=share)
    threshold = choose_min_confidence(
        answers(rows(*inside), labels), rows(*outside), CATEGORIES, goal
    )
    assert 0 <= threshold <= 1
    assert np.mean(np.array(inside) >= threshold) >= coverage - 1e-9
    may_rise = np.mean(np.array(inside) > threshold) >= max(coverage, 1 / len(inside))
    if outside and may_rise:
        assert np.mean(np.array(outside) < threshold) >= share - 1e-9


def test_the_threshold_catches_out_of_scope_prompts_and_no_more() -> None:
    inside = answers(rows(*np.linspace(0.5, 1, 100)), ["coding"] * 100)
    outside = rows(0.36, 0.37, 0.38, 0.6)
    goal = Goal(min_coverage=0.5, out_of_scope=0.75)
    threshold = choose_min_confidence(inside, outside, CATEGORIES, goal)
    assert 0.38 < threshold < 0.381


def test_out_of_scope_prompts_called_general_are_caught_already() -> None:
    inside = answers(rows(0.6, 0.9), ["coding", "coding"])
    outside = rows(0.95, 0.99, category="general")
    assert choose_min_confidence(inside, outside, CATEGORIES, Goal()) == pytest.approx(0)


def test_general_answers_do_not_count_as_lost_coverage() -> None:
    made = np.vstack([rows(*[0.4] * 9, category="general"), rows(0.5)])
    inside = answers(made, ["general"] * 9 + ["coding"])
    threshold = choose_min_confidence(inside, rows(0.45), CATEGORIES, Goal(min_coverage=1.0))
    assert 0.45 < threshold <= 0.5


def test_without_out_of_scope_prompts_the_kept_answers_are_accurate() -> None:
    inside = answers(rows(0.9, 0.8, 0.7, 0.6), ["coding", "coding", "math", "math"])
    goal = Goal(min_coverage=0.25, accuracy=1.0)
    threshold = choose_min_confidence(inside, np.empty((0, 3)), CATEGORIES, goal)
    assert threshold == pytest.approx(0.8)


def test_all_answers_are_kept_when_they_are_accurate_enough() -> None:
    inside = answers(rows(0.9, 0.4), ["coding", "coding"])
    assert choose_min_confidence(inside, np.empty((0, 3)), CATEGORIES, Goal()) == 0


def test_an_aim_out_of_reach_gives_way_to_coverage() -> None:
    inside = answers(rows(0.9, 0.8), ["math", "math"])
    goal = Goal(min_coverage=1.0)
    assert choose_min_confidence(inside, np.empty((0, 3)), CATEGORIES, goal) == pytest.approx(0.8)


def test_kept_means_what_decide_says() -> None:
    made = np.vstack([rows(0.5, 0.9), rows(0.5, category="general")])
    found = Answers.of(made, ["coding"] * 3, CATEGORIES, 0.6)
    said = [decide(row, CATEGORIES, 0.6).reason == "routed" for row in made]
    assert found.kept.tolist() == said == [False, True, True]
