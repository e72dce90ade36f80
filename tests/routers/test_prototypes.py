"""Typical prompts of every category."""

from __future__ import annotations

import numpy as np
import pytest

from routers.arrays import Rows
from routers.base import FloatArray
from routers.prototypes import Prototypes, fit_prototypes


def unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def islands() -> tuple[FloatArray, FloatArray]:
    """Return two categories in four groups that no straight line parts, and their centres."""
    rng = np.random.default_rng(0)
    centres = np.repeat(np.array([[1.0, 1, 0], [-1, -1, 0], [1, -1, 0], [-1, 1, 0]]), 50, axis=0)
    return unit(centres + rng.normal(scale=0.1, size=centres.shape)), centres


def test_groups_of_a_category_may_lie_apart(islands: tuple[FloatArray, FloatArray]) -> None:
    embeddings, centres = islands
    labels = np.repeat([0, 1], 100)
    found = Prototypes(fit_prototypes(embeddings, labels))
    for centre, label in zip(unit(centres), labels, strict=True):
        row = found.proba(centre)
        assert row.sum() == pytest.approx(1)
        assert row.argmax() == label


def test_prototypes_are_few_small_and_repeatable() -> None:
    rng = np.random.default_rng(0)
    embeddings = unit(rng.normal(size=(1_500, 16)))
    labels = np.repeat([0, 1, 2], [900, 590, 10])
    found = fit_prototypes(embeddings, labels)
    assert found["prototypes"].dtype == np.int8
    assert np.diff([*found["prototype_starts"], len(found["prototypes"])]).max() <= 400
    assert np.exp(2 * found["prototype_log_weights"]).sum() == pytest.approx(1_500)
    again = fit_prototypes(embeddings, labels)
    assert all(again[name].tobytes() == array.tobytes() for name, array in found.items())


def test_prompts_that_are_alike_make_one_prototype() -> None:
    embeddings = unit(np.array([[1.0, 0], [1, 0], [0, 1]]))
    found = fit_prototypes(embeddings, np.array([0, 0, 1]))
    assert len(found["prototypes"]) == 2


def test_what_an_earlier_version_made_is_refused() -> None:
    found = fit_prototypes(unit(np.array([[1.0, 0], [0, 1]])), np.array([0, 1]))
    del found["prototype_bandwidth"]
    with pytest.raises(ValueError, match="an earlier version made it: train it again"):
        Prototypes(found)


def test_a_product_with_rows_is_the_usual_one() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 3), (47, 384), (5, 9_000)):
        rows, vector = rng.normal(size=shape), rng.normal(size=shape[1])
        np.testing.assert_allclose(Rows(rows) @ vector, rows @ vector, rtol=1e-3, atol=1e-3)
