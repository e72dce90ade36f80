from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from routers.metrics import Answers, confusion, f1_by_category, reliability

CATEGORIES = ("coding", "general", "law", "math")


@pytest.fixture
def answers() -> Answers:
    rng = np.random.default_rng(0)
    labels = [CATEGORIES[i] for i in rng.integers(0, 3, 200)]
    return Answers.of(rng.dirichlet(np.ones(4), 200), labels, CATEGORIES, 0.5)


def test_scores_are_those_of_scikit_learn(answers: Answers) -> None:
    scores = answers.scores()
    assert scores["accuracy"] == accuracy_score(answers.truth, answers.predicted)
    expected = f1_score(answers.truth, answers.predicted, average="macro", labels=[0, 1, 2])
    assert scores["macro_f1"] == pytest.approx(expected)
    by_category = f1_score(answers.truth, answers.predicted, average=None, labels=range(4))
    np.testing.assert_allclose(f1_by_category(answers), by_category)
    expected_counts = confusion_matrix(answers.truth, answers.predicted, labels=range(4))
    assert (confusion(answers) == expected_counts).all()


def test_a_category_nobody_names_has_no_f1() -> None:
    answers = Answers.of(np.array([[0.9, 0.1, 0, 0]]), ["coding"], CATEGORIES, 0)
    assert np.isnan(f1_by_category(answers)).tolist() == [False, True, True, True]
    assert answers.scores()["macro_f1"] == 1


def test_a_label_that_is_no_category_is_wrong() -> None:
    answers = Answers.of(np.eye(4)[:2], ["coding", "physics"], CATEGORIES, 0)
    assert answers.truth.tolist() == [0, -1]
    assert answers.scores()["accuracy"] == 0.5
    assert confusion(answers).sum() == 1


def test_calibration_error_by_hand() -> None:
    made = np.array([[0.9, 0.1, 0, 0]] * 10 + [[0.5, 0.3, 0.2, 0]] * 10)
    labels = ["coding"] * 8 + ["law"] * 2 + ["coding"] * 5 + ["law"] * 5
    answers = Answers.of(made, labels, CATEGORIES, 0)
    assert answers.scores()["ece"] == pytest.approx(0.5 * abs(0.9 - 0.8))
    assert [entry["share"] for entry in reliability(answers)] == [0.5, 0.5]


def test_coverage_counts_what_is_kept(answers: Answers) -> None:
    kept = (answers.margin >= 0.5) | (answers.predicted == 1)
    assert 0 < kept.mean() < 1
    scores = answers.scores()
    assert scores["coverage"] == kept.mean()
    assert scores["covered_accuracy"] == answers.correct[kept].mean()


def test_nothing_kept_is_nothing_right() -> None:
    answers = Answers.of(np.array([[0.4, 0.3, 0.3, 0]]), ["coding"], CATEGORIES, 0.9)
    assert answers.scores()["covered_accuracy"] == 0


def test_some_answers_can_be_chosen(answers: Answers) -> None:
    some = answers[np.array([3, 3, 5])]
    assert len(some) == 3
    assert some.truth.tolist() == [answers.truth[i] for i in (3, 3, 5)]
