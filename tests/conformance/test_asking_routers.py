"""What the routers that are not kept in an artifact must do: an expert that is asked, and rules.

The expert is the real embedded model. It is small and wrong more often than not; what counts here
is the contract.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gateway.teacher import open_teacher
from routers.artifact import DEFAULT_FOLDER, load_router
from routers.base import Router, RouterError, Window, windows
from routers.keyword import KeywordRouter
from routers.llm import LlmRouter
from tests.prompts import NASTY
from tests.servers import REPO

QUESTIONS = ["Write a Python function", "What is a fever?", "Is this contract valid?"]


@pytest.fixture(scope="module")
def asked() -> Iterator[LlmRouter]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COE_CONFIG", str(REPO / "experts.yaml"))
        with open_teacher("llm=general") as router:
            yield router


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlmRouter]:
    text = (REPO / "experts.yaml").read_text(encoding="utf-8")
    keys = {
        "router: routers/default": f"router: {DEFAULT_FOLDER}",
        "llm_router: null": "llm_router: {expert: general, method: json_schema}",
    }
    for written, wanted in keys.items():
        assert written in text
        text = text.replace(written, wanted)
    config = tmp_path_factory.mktemp("named") / "experts.yaml"
    config.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COE_CONFIG", str(config))
        with open_teacher("llm=general") as router:
            yield router


@pytest.fixture(scope="module")
def ruled() -> KeywordRouter:
    return KeywordRouter({"law": ["contract"]}, load_router(DEFAULT_FOLDER))


def texts_for(router: Router) -> list[str]:
    """Return what is asked in company: all that is nasty too, where that takes no minutes."""
    return [*QUESTIONS, *NASTY] if isinstance(router, KeywordRouter) else QUESTIONS


@pytest.fixture(params=["asked", "named", "ruled"])
def router(request: pytest.FixtureRequest) -> Router:
    found: Router = request.getfixturevalue(request.param)
    return found


def test_it_is_a_router_of_the_trained_ones_categories(router: Router) -> None:
    assert isinstance(router, Router)
    assert router.categories_ == load_router(DEFAULT_FOLDER).categories_
    assert router.active_params_b > 0


def test_rows_are_probabilities(router: Router) -> None:
    rows = router.predict_proba(QUESTIONS)
    assert rows.shape == (len(QUESTIONS), len(router.categories_))
    assert rows.dtype == np.float64
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-9)
    assert router.predict_proba([]).shape == (0, len(router.categories_))


def test_a_text_gets_the_same_row_in_any_company(router: Router) -> None:
    texts = texts_for(router)
    together = router.predict_proba(texts)
    alone = np.concatenate([router.predict_proba([text]) for text in texts])
    assert alone.tobytes() == together.tobytes()


def test_several_threads_may_ask(router: Router) -> None:
    texts = texts_for(router)
    with ThreadPoolExecutor(3) as pool:
        rows = np.concatenate(list(pool.map(lambda t: router.predict_proba([t]), texts)))
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-9)
    # a server that batches rounds otherwise: only rules and trained routers give the same bits
    if isinstance(router, KeywordRouter):
        assert rows.tobytes() == router.predict_proba(texts).tobytes()


def test_what_the_model_is_shown_of_a_long_text_is_told(asked: LlmRouter) -> None:
    assert windows(asked, "word " * 400) == ()
    assert windows(asked, "word " * 401) == (Window("llm", 1000, 1000),)


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_nasty_prompts_get_probabilities_or_a_clear_failure(router: Router, text: str) -> None:
    if isinstance(router, LlmRouter):
        text = text[:300]  # the small model would read the long ones for half a minute
    try:
        (row,) = router.predict_proba([text])
    except RouterError as error:  # it answers with half a character, which has no logprobs
        assert text.startswith("🧑")
        assert "Use method json_schema" in str(error)
        return
    assert np.isfinite(row).all()
    assert row.sum() == pytest.approx(1)
