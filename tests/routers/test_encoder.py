from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routers.artifact import DEFAULT_FOLDER
from routers.encoder import ENCODER_FILE, TOKENIZER_FILE, SentenceEncoder
from tests.prompts import shipped_encoder

CLS, SEP = 101, 102
MAX_TOKENS = 32


def test_vectors_have_unit_length() -> None:
    encoder = shipped_encoder()
    vectors = encoder.encode(["Prove that 2 is prime.", ""])
    assert vectors.shape == (2, encoder.n_dims)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)


def test_alike_texts_are_near() -> None:
    cat, kitten, tax = shipped_encoder().encode(
        ["a cat on the sofa", "a kitten on the couch", "income tax rates"]
    )
    assert cat @ kitten > 0.5 > cat @ tax


def test_progress_is_told_for_every_text() -> None:
    told: list[tuple[str, int, int]] = []
    shipped_encoder().encode(["a", "b"], lambda *call: told.append(call))
    assert told == [("embedding", 1, 2), ("embedding", 2, 2)]


def test_a_token_means_what_it_means_as_a_text() -> None:
    encoder = shipped_encoder()
    cat, tax = (encoder.read(word).token_ids[1] for word in ("cat", "tax"))
    vectors = encoder.encode_tokens([cat, tax])
    assert vectors.tobytes() == encoder.encode(["cat", "tax"]).tobytes()


def test_a_short_text_is_read_whole() -> None:
    reading = shipped_encoder().read("one two three")
    assert reading.complete
    assert (reading.head_chars, reading.tail_chars) == (13, 0)
    assert reading.token_ids[0] == CLS
    assert reading.token_ids[-1] == SEP


def test_of_a_long_text_both_ends_are_read() -> None:
    text = "start " * 500 + "end " * 500
    encoder = shipped_encoder()
    reading = encoder.read(text)
    assert len(reading.token_ids) == MAX_TOKENS
    assert not reading.complete
    assert reading.n_chars == len(text)
    assert text[: reading.head_chars].split() == ["start"] * 20
    assert text[-reading.tail_chars :].split() == ["end"] * 10
    only_ends = text[: reading.head_chars] + " " + text[-reading.tail_chars :]
    assert encoder.read(only_ends).token_ids == reading.token_ids


def test_the_end_of_a_text_changes_its_vector() -> None:
    one, other = shipped_encoder().encode(["word " * 5_000 + "tax", "word " * 5_000 + "poem"])
    assert (one != other).any()


def test_reading_less_is_another_encoder() -> None:
    assert SentenceEncoder(DEFAULT_FOLDER, 16).digest != shipped_encoder().digest


@settings(max_examples=200)
@given(st.text(st.characters(), max_size=300), st.integers(0, 400))
def test_any_text_is_read_within_the_limit(text: str, n_words: int) -> None:
    text = text + " x" * n_words
    reading = shipped_encoder().read(text)
    assert 2 <= len(reading.token_ids) <= MAX_TOKENS
    assert reading.n_chars == len(text)
    assert reading.head_chars + reading.tail_chars <= len(text)
    assert reading.complete == (reading.head_chars == len(text))


def test_saving_copies_both_files(tmp_path: Path) -> None:
    shipped_encoder().save(tmp_path)
    assert SentenceEncoder(tmp_path, MAX_TOKENS).digest == shipped_encoder().digest


@pytest.mark.parametrize(
    ("broken", "message"),
    [(ENCODER_FILE, "must be an ONNX model"), (TOKENIZER_FILE, "must be a tokenizer")],
)
def test_a_broken_file_is_named(tmp_path: Path, broken: str, message: str) -> None:
    shipped_encoder().save(tmp_path)
    (tmp_path / broken).write_bytes(b"\x00 nothing")
    with pytest.raises(ValueError, match=f"{broken} {message}"):
        SentenceEncoder(tmp_path, MAX_TOKENS)


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens must be 6 or more"):
        SentenceEncoder(DEFAULT_FOLDER, 5)
