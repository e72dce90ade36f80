from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.bag import BagRouter
from routers.base import FloatArray, decide, margins
from routers.calibrate import Goal, calibrate, choose_min_margin, fit_temperature, tempered
from routers.data import Row
from routers.metrics import Answers
from tests.prompts import toy_rows

CATEGORIES = ("coding", "general", "math")


def rows(*confidences: float, category: str = "coding") -> FloatArray:
    """Make rows that are this sure of a category."""
    column = CATEGORIES.index(category)
    made = np.array([[(1 - c) / 2] * 3 for c in confidences]).reshape(-1, 3)
    made[:, column] = confidences
    return made


def leading(*by: float, category: str = "coding") -> FloatArray:
    """Make rows whose category leads general by this much; general itself leads coding."""
    other = "coding" if category == "general" else "general"
    made = np.zeros((len(by), len(CATEGORIES)))
    made[:, CATEGORIES.index(category)] = [(1 + lead) / 2 for lead in by]
    made[:, CATEGORIES.index(other)] = [(1 - lead) / 2 for lead in by]
    return made


def answers(probabilities: FloatArray, labels: list[str]) -> Answers:
    return Answers.of(probabilities, labels, CATEGORIES, min_margin=0.0)


def test_temperature_makes_too_sure_answers_honest() -> None:
    sure = rows(*[0.99] * 100)
    truth = np.array([0] * 70 + [2] * 30)
    temperature = fit_temperature(sure, truth, np.ones(100))
    assert temperature > 1
    assert tempered(sure, temperature)[0, 0] == pytest.approx(0.7, abs=0.02)


def test_temperature_makes_shy_answers_surer() -> None:
    assert fit_temperature(rows(*[0.4] * 50), np.zeros(50, dtype=np.int64), np.ones(50)) < 1


def test_without_texts_the_temperature_is_one() -> None:
    assert fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64), np.empty(0)) == 1


def test_heavier_texts_decide_the_temperature() -> None:
    truth = np.repeat([0, 2], 100)
    sure = rows(*[0.9] * 200)
    right, wrong = (
        fit_temperature(sure, truth, np.repeat(w, 100)) for w in ([9.0, 1.0], [1.0, 9.0])
    )
    assert right < 1.1 < 2 < wrong


@pytest.mark.parametrize("n_texts", [1, 6, 60])
def test_a_few_right_answers_do_not_make_a_router_certain(n_texts: int) -> None:
    truth = np.zeros(n_texts, dtype=np.int64)
    temperature = fit_temperature(rows(*[0.9] * n_texts), truth, np.ones(n_texts))
    expected = (n_texts + 1) / (n_texts + 2)
    assert tempered(rows(0.9), temperature)[0, 0] == pytest.approx(expected, abs=0.01)


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
    threshold = choose_min_margin(
        answers(leading(*inside), labels), margins(leading(*outside), CATEGORIES), goal
    )
    assert 0 <= threshold <= 1
    assert np.mean(np.array(inside) >= threshold - 1e-12) >= coverage - 1e-9
    may_rise = np.mean(np.array(inside) > threshold + 1e-12) >= max(coverage, 1 / len(inside))
    if outside and may_rise:
        assert np.mean(np.array(outside) < threshold + 1e-12) >= share - 1e-9


def test_the_threshold_catches_out_of_scope_prompts_and_no_more() -> None:
    inside = answers(leading(*np.linspace(0.5, 1, 100)), ["coding"] * 100)
    outside = leading(0.36, 0.37, 0.38, 0.6)
    goal = Goal(min_coverage=0.5, out_of_scope=0.75)
    threshold = choose_min_margin(inside, margins(outside, CATEGORIES), goal)
    assert 0.379 < threshold < 0.381
    assert (margins(outside, CATEGORIES) < threshold).tolist() == [True, True, True, False]


def test_a_share_of_prompts_is_exact_where_it_is_whole() -> None:
    inside = answers(leading(*np.linspace(0.5, 1, 100)), ["coding"] * 100)
    outside = margins(leading(*np.linspace(0.3, 0.5, 10)), CATEGORIES)
    caught = choose_min_margin(inside, outside, Goal(min_coverage=0.5, out_of_scope=0.9))
    assert (outside < caught).sum() == 9
    kept = choose_min_margin(inside, np.ones(4), Goal(min_coverage=0.55))
    assert (inside.margin >= kept).sum() == 55


def test_out_of_scope_prompts_called_general_are_caught_already() -> None:
    inside = answers(leading(0.6, 0.9), ["coding", "coding"])
    outside = leading(0.95, 0.99, category="general")
    assert choose_min_margin(inside, margins(outside, CATEGORIES), Goal()) == pytest.approx(0)


def test_general_answers_do_not_count_as_lost_coverage() -> None:
    made = np.vstack([leading(*[0.4] * 9, category="general"), leading(0.5)])
    inside = answers(made, ["general"] * 9 + ["coding"])
    threshold = choose_min_margin(
        inside, margins(leading(0.45), CATEGORIES), Goal(min_coverage=1.0)
    )
    assert 0.449 < threshold <= 0.5


def test_without_out_of_scope_prompts_the_kept_answers_are_accurate() -> None:
    inside = answers(leading(0.9, 0.8, 0.7, 0.6), ["coding", "coding", "math", "math"])
    goal = Goal(min_coverage=0.25, accuracy=1.0)
    threshold = choose_min_margin(inside, np.empty(0), goal)
    assert threshold == pytest.approx(0.8)


def test_all_answers_are_kept_when_they_are_accurate_enough() -> None:
    inside = answers(leading(0.9, 0.4), ["coding", "coding"])
    assert choose_min_margin(inside, np.empty(0), Goal()) == 0


def test_an_aim_out_of_reach_gives_way_to_coverage() -> None:
    inside = answers(leading(0.9, 0.8), ["math", "math"])
    goal = Goal(min_coverage=1.0)
    assert choose_min_margin(inside, np.empty(0), goal) == pytest.approx(0.8)


def test_kept_means_what_decide_says() -> None:
    made = np.vstack([leading(0.5, 0.9), leading(0.5, category="general")])
    found = Answers.of(made, ["coding"] * 3, CATEGORIES, 0.6)
    said = [decide(row, CATEGORIES, 0.6).reason == "routed" for row in made]
    assert found.kept.tolist() == said == [False, True, True]


def test_every_source_counts_the_same_in_the_temperature() -> None:
    rows = [Row(row.prompt, row.category, "big") for row in toy_rows()]
    strange = Row(rows[0].prompt, "general", "small")
    router = BagRouter("toy").fit([row.prompt for row in rows], [row.category for row in rows])
    calibrate(router, rows[1:], [], Goal())
    alone = router.temperature
    calibrate(router, [*rows[1:], strange], [], Goal())
    assert router.temperature > 3 * alone


def test_unseen_sources_together_count_as_much_as_all_others() -> None:
    rows = toy_rows()
    unseen = [Row(row.prompt, "general", f"new {row.category}") for row in rows[::9]]
    router = BagRouter("toy").fit([row.prompt for row in rows], [row.category for row in rows])

    def temperature(n_sources: int, *unseen: Row) -> float:
        held_out = [Row(row.prompt, row.category, str(i % n_sources)) for i, row in enumerate(rows)]
        answered = calibrate(router, held_out, [], Goal(), unseen=unseen)
        assert len(answered) == len(rows) + len(unseen)
        return router.temperature

    assert temperature(1, *unseen) == temperature(6, *unseen) > temperature(6)


def test_without_a_general_category_the_margin_is_the_confidence() -> None:
    assert margins(np.array([[0.7, 0.3]]), ("coding", "math")).tolist() == [0.7]
