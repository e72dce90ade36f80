from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from routers.arrays import read_arrays, write_arrays
from routers.artifact import DEFAULT_FOLDER
from routers.encoder import SentenceEncoder
from routers.skimming import skimmed
from routers.static import StaticRouter
from routers.tokens import TokenVectors
from tests.prompts import shipped_encoder, toy_rows

VECTORS = read_arrays(DEFAULT_FOLDER / "cheap" / "static" / "tokens.npz")["vectors"]
SHIPPED = TokenVectors.load(DEFAULT_FOLDER / "cheap" / "static")
ROWS = toy_rows()
TEXTS = [row.prompt for row in ROWS]


@pytest.fixture(scope="module")
def static() -> StaticRouter:
    return StaticRouter(shipped_encoder, "toy").fit(TEXTS, [row.category for row in ROWS])


@pytest.mark.parametrize(
    ("prompt", "category"),
    [("kotlin compiler", "coding"), ("stew with lamb", "cooking"), ("lovely holidays", "general")],
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


def test_a_long_number_counts_as_a_short_one(static: StaticRouter) -> None:
    short, long, year = static.predict_proba(
        [f"Write a Rust function for {number} users." for number in (9, 10**17, 1999)]
    )
    assert long.tobytes() == short.tobytes() != year.tobytes()


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


def test_an_encoder_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoder = shipped_encoder()
    assert TokenVectors.of(encoder).digest == SHIPPED.digest

    for name in ("encoder.onnx", "tokenizer.json"):
        shutil.copy(DEFAULT_FOLDER / name, tmp_path)
    with (tmp_path / "encoder.onnx").open("ab") as file:
        file.write(b"\x9a\x06\x00")  # an unknown, empty field
    shutil.copytree(DEFAULT_FOLDER / "cheap", tmp_path / "cheap")
    other = SentenceEncoder(tmp_path, max_tokens=16)
    monkeypatch.setattr(SentenceEncoder, "encode_tokens", lambda *_: np.eye(30_522, 384))
    assert TokenVectors.of(other).digest != SHIPPED.digest


def test_vectors_of_another_vocabulary_are_refused() -> None:
    tokenizer = (DEFAULT_FOLDER / "tokenizer.json").read_text()
    with pytest.raises(ValueError, match=r"tokens.npz must hold 30522 rows of int8.*\(5, 128\)"):
        TokenVectors(np.zeros((5, 128), dtype=np.int8), tokenizer, "")


def test_token_ids_may_have_gaps() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "world": 7}, "[UNK]"))
    vectors = np.arange(16, dtype=np.int8).reshape(8, 2)
    tokens = TokenVectors(vectors, tokenizer.to_str(), "")
    expected = vectors[7] / np.linalg.norm(vectors[7]) * np.sqrt(2)
    np.testing.assert_allclose(tokens.embed("world"), expected)


@pytest.mark.parametrize("content", [b"no archive", None])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokens.npz"
    if content is None:
        write_arrays(path, {"vectors": np.zeros((1, 1), dtype=np.int8)})
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tokens\.npz must hold token vectors"):
        TokenVectors.load(tmp_path)


def test_a_category_of_many_prompts_is_learned_too() -> None:
    texts = ["count to {}"] * 400 + [f"word{i}" for i in range(59)]
    labels = ["big"] * 400 + [f"small{i:02}" for i in range(59)]
    router = StaticRouter(shipped_encoder, "toy").fit(texts, labels)
    assert router.categories_[router.predict_proba(texts[:1])[0].argmax()] == "big"


def test_even_rows_of_many_categories_can_be_imitated() -> None:
    even = np.full((4, 60), 1 / 60)
    names = tuple(f"c{i:02}" for i in range(60))
    router = StaticRouter(shipped_encoder, "toy").imitate(list("abcd"), even, names)
    assert router.predict_proba(["a"]).max() < 0.2


@given(st.text(st.characters(exclude_categories=["Cc"]), max_size=60))
@example("Don't re-read 'foo_bar', naïve CAFÉ! supercalifragilistic 1999")
@example("cafe\u0301 re\u0301sume\u0301, soft\u00adhyphen, 20°C, 10⁻³ 🎉🎉")
def test_a_text_is_the_mean_of_the_tokens_that_the_tokenizer_makes_of_it(text: str) -> None:
    token_ids = {*shipped_encoder().tokenizer.encode(skimmed(text), add_special_tokens=False).ids}
    summed = VECTORS[[*token_ids]].sum(axis=0, dtype=np.int64)
    expected = summed * np.sqrt(128) / max(np.linalg.norm(summed), 1)
    np.testing.assert_allclose(SHIPPED.embed(text), expected, rtol=1e-5, atol=1e-6)


def test_the_name_of_a_special_token_is_text() -> None:
    assert SHIPPED.embed("[MASK]").tobytes() == SHIPPED.embed("mask ] [").tobytes()
