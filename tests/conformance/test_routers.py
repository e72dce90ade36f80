"""What every router type that is kept in an artifact must do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from routers.artifact import load_router, read_card, save_router
from routers.bag import BagRouter
from routers.base import Router, encoder_digest, predict_and_embed, predict_or_defer
from routers.cascade import CascadeRouter
from routers.finetuned import FinetunedRouter
from routers.knn import KnnRouter
from routers.language_gate import LanguageGate
from routers.linear import LinearRouter
from routers.mean import MeanRouter
from routers.registry import StoredRouter, router_types
from routers.static import StaticRouter
from tests.prompts import NASTY, shipped_encoder, toy_rows

ROWS = toy_rows()
TEXTS = [row.prompt for row in ROWS[::2]]
LABELS = [row.category for row in ROWS[::2]]
HELD_OUT_TEXTS = [row.prompt for row in ROWS[1::2]]
HELD_OUT_LABELS = [row.category for row in ROWS[1::2]]


def untrained(type_name: str) -> StoredRouter:
    encoder = shipped_encoder()
    static = StaticRouter(shipped_encoder, "toy")
    routers: dict[str, StoredRouter] = {
        "linear": LinearRouter(encoder, "toy"),
        "knn": KnnRouter(encoder, "toy"),
        "finetuned": FinetunedRouter(encoder, "toy"),
        "bag": BagRouter("toy"),
        "static": static,
        "mean": MeanRouter(BagRouter("toy"), static, "toy"),
        "cascade": CascadeRouter(BagRouter("toy"), KnnRouter(encoder, "toy"), "toy"),
        "language_gate": LanguageGate(LinearRouter(encoder, "toy"), "general"),
    }
    return routers[type_name]


def trained(type_name: str) -> StoredRouter:
    router = untrained(type_name).fit(TEXTS, LABELS)
    router.calibrate(HELD_OUT_TEXTS, HELD_OUT_LABELS, np.ones(len(HELD_OUT_TEXTS)))
    return router


@pytest.fixture(scope="module", params=router_types())
def router(request: pytest.FixtureRequest) -> StoredRouter:
    return trained(request.param)


def test_it_is_a_router(router: StoredRouter) -> None:
    assert isinstance(router, Router)
    assert router.name == "toy"
    assert router.active_params_b > 0
    assert router.min_margin == 0


def test_categories_are_sorted(router: StoredRouter) -> None:
    assert router.categories_ == ("coding", "cooking", "general")


def test_it_has_learned(router: StoredRouter) -> None:
    answers = router.predict_proba(HELD_OUT_TEXTS).argmax(axis=1)
    answered = np.array(router.categories_)[answers]
    assert (answered == HELD_OUT_LABELS).mean() > 0.9


def test_rows_are_probabilities(router: StoredRouter) -> None:
    rows = router.predict_proba(HELD_OUT_TEXTS)
    assert rows.shape == (len(HELD_OUT_TEXTS), 3)
    assert rows.dtype == np.float64
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-12)


def test_no_texts_give_no_rows(router: StoredRouter) -> None:
    assert router.predict_proba([]).shape == (0, 3)


def test_a_text_gets_the_same_row_in_any_company(router: StoredRouter) -> None:
    texts = [*HELD_OUT_TEXTS, *NASTY]
    together = router.predict_proba(texts)
    alone = np.concatenate([router.predict_proba([text]) for text in texts])
    reversed_ = router.predict_proba(texts[::-1])[::-1]
    assert together.tobytes() == alone.tobytes() == reversed_.tobytes()


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_nasty_prompts_get_probabilities(router: StoredRouter, text: str) -> None:
    (row,) = router.predict_proba([text])
    assert np.isfinite(row).all()
    assert row.sum() == pytest.approx(1)


def test_threads_do_not_disturb_each_other(router: StoredRouter) -> None:
    expected = [router.predict_proba([text]).tobytes() for text in HELD_OUT_TEXTS]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: router.predict_proba([text]), HELD_OUT_TEXTS * 2))
    assert [row.tobytes() for row in found] == expected * 2


def test_a_saved_router_answers_alike(router: StoredRouter, tmp_path: Path) -> None:
    router.min_margin = 0.4
    try:
        save_router(router, tmp_path / "saved", {})
    finally:
        router.min_margin = 0.0
    loaded = load_router(tmp_path / "saved")
    texts = [*HELD_OUT_TEXTS, *NASTY]
    assert loaded.predict_proba(texts).tobytes() == router.predict_proba(texts).tobytes()
    assert (loaded.name, loaded.version) == (router.name, router.version)
    assert (loaded.type, loaded.categories_) == (router.type, router.categories_)
    assert loaded.active_params_b == router.active_params_b
    assert loaded.min_margin == 0.4


def test_a_text_is_embedded_on_the_way_to_the_same_row(router: StoredRouter) -> None:
    texts = [*HELD_OUT_TEXTS, *NASTY]
    found = [predict_and_embed(router, text) for text in texts]
    assert np.array([row for row, _ in found]).tobytes() == router.predict_proba(texts).tobytes()
    embedded = [embedding for _, embedding in found if embedding is not None]
    assert bool(embedded) == (encoder_digest(router) is not None)
    np.testing.assert_allclose([float(np.linalg.norm(one)) for one in embedded], 1)


def test_an_answer_at_once_or_deferred_is_the_same(router: StoredRouter) -> None:
    for text in (*HELD_OUT_TEXTS, *NASTY):
        found = predict_or_defer(router, text)
        row = found() if callable(found) else found
        assert row.tobytes() == router.predict_proba([text])[0].tobytes()


def test_saving_again_writes_the_same_bytes(router: StoredRouter, tmp_path: Path) -> None:
    save_router(router, tmp_path / "one", {})
    save_router(load_router(tmp_path / "one"), tmp_path / "two", {})
    assert read_card(tmp_path / "one") == read_card(tmp_path / "two")


@pytest.mark.parametrize("type_name", router_types())
def test_fitting_again_forgets(type_name: str) -> None:
    router = trained(type_name)
    version = router.version
    router.min_margin = 0.4
    labels = ["zebra" if label == "coding" else label for label in LABELS]
    router.fit(TEXTS, labels)
    assert router.categories_ == ("cooking", "general", "zebra")
    assert router.version != version
    assert router.min_margin == 0
    fresh = untrained(type_name).fit(TEXTS, labels)
    assert router.version == fresh.version
    assert router.predict_proba(TEXTS).tobytes() == fresh.predict_proba(TEXTS).tobytes()


@pytest.mark.parametrize("type_name", router_types())
def test_one_category_is_refused(type_name: str) -> None:
    with pytest.raises(ValueError, match="two categories or more"):
        untrained(type_name).fit(["a", "b"], ["general", "general"])


@pytest.mark.parametrize("type_name", router_types())
def test_it_can_be_calibrated_on_the_answers_of_others(type_name: str) -> None:
    router = untrained(type_name).fit(TEXTS, LABELS)
    weights = np.ones(len(HELD_OUT_TEXTS))
    answers = router.predict_proba(HELD_OUT_TEXTS)
    found = router.calibrate(HELD_OUT_TEXTS, HELD_OUT_LABELS, weights, answers=answers)
    assert not np.allclose(found, answers)
    np.testing.assert_allclose(found, router.predict_proba(HELD_OUT_TEXTS), atol=1e-12)


def test_calibration_returns_what_is_answered_from_then_on(router: StoredRouter) -> None:
    answered = router.calibrate(HELD_OUT_TEXTS, HELD_OUT_LABELS, np.ones(len(HELD_OUT_TEXTS)))
    assert answered.tobytes() == router.predict_proba(HELD_OUT_TEXTS).tobytes()
