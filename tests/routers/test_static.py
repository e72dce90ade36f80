from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from routers.artifact import DEFAULT_FOLDER
from routers.encoder import SentenceEncoder
from routers.static import StaticRouter
from routers.tokens import TokenVectors
from tests.prompts import shipped_encoder, toy_rows

ROWS = toy_rows()
TEXTS = [row.prompt for row in ROWS]


@pytest.fixture(scope="module")
def static() -> StaticRouter:
    return StaticRouter(shipped_encoder, "toy").fit(TEXTS, [row.category for row in ROWS])


@pytest.mark.parametrize(
    ("prompt", "category"),
    [("kotlin compiler", "coding"), ("stew with lamb", "cooking"), ("our holiday", "general")],
)
def test_words_that_no_prompt_held_are_known_by_their_likeness(
    static: StaticRouter, prompt: str, category: str
) -> None:
    assert not set(prompt.split()) & {word for text in TEXTS for word in text.split()}
    (row,) = static.predict_proba([prompt])
    assert static.categories_[row.argmax()] == category


def test_both_ends_of_a_long_text_are_read_and_its_middle_is_not(static: StaticRouter) -> None:
    filler = "lorem ipsum " * 100
    asked = "Write a Rust function that parses JSON."
    alone, start, end, middle = static.predict_proba(
        [filler, asked + filler, filler + asked, filler + asked + filler]
    )
    coding = static.categories_.index("coding")
    assert min(start[coding], end[coding]) > alone[coding]
    assert middle.tobytes() == alone.tobytes()


def test_order_case_and_repetition_are_lost(static: StaticRouter) -> None:
    one, other = static.predict_proba(["roast a chicken", "A Chicken, chicken roast ,"])
    (same,) = static.predict_proba(["chicken , a roast"])
    assert other.tobytes() == same.tobytes() != one.tobytes()


def test_probabilities_are_imitated() -> None:
    texts = ["red apple", "green apple", "red pear", "green pear"] * 5
    taught = np.array([[0.9, 0.1], [0.7, 0.3], [0.3, 0.7], [0.1, 0.9]] * 5)
    router = StaticRouter(shipped_encoder, "toy").imitate(texts, taught, ("a", "b"))
    np.testing.assert_allclose(router.predict_proba(texts), taught, atol=0.05)


def test_a_router_that_has_not_learned_says_so() -> None:
    with pytest.raises(ValueError, match="a static router must learn before it answers; call fit"):
        StaticRouter(shipped_encoder, "toy").predict_proba(["hello"])


def test_an_encoder_is_asked_what_its_tokens_mean(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("encoder.onnx", "tokenizer.json"):
        shutil.copy(DEFAULT_FOLDER / name, tmp_path)
    encoder = SentenceEncoder(tmp_path, max_tokens=16)
    rng = np.random.default_rng(0)
    meant = rng.normal(size=(30_522, 384)) * np.geomspace(1, 1e-3, 384)
    monkeypatch.setattr(SentenceEncoder, "encode_tokens", lambda _, ids, __: meant[ids])
    tokens = TokenVectors.of(encoder)
    tokens.save(tmp_path)
    kept = np.load(tmp_path / "tokens.npz")["vectors"]
    assert (kept.shape, kept.dtype) == ((30_522, 128), np.int8)
    assert (np.abs(kept).max(axis=0) == 63).all()
    first = np.corrcoef(kept[:, 0], meant[:, 0])[0, 1]
    assert abs(first) > 0.95
    assert TokenVectors.load(tmp_path).digest == tokens.digest


def test_vectors_of_another_vocabulary_are_refused() -> None:
    tokenizer = (DEFAULT_FOLDER / "tokenizer.json").read_text()
    with pytest.raises(ValueError, match=r"tokens.npz must hold 30522 rows of int8.*\(5, 128\)"):
        TokenVectors(np.zeros((5, 128), dtype=np.int8), tokenizer)
