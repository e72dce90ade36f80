from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from routers.artifact import DEFAULT_FOLDER
from routers.encoder import SentenceEncoder
from routers.spelling import Speller
from tests.prompts import shipped_encoder

SPELLER = Speller(shipped_encoder().tokenizer)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("recieve", "receive"),
        ("Wriet a fucntion", "Write a function"),
        ("programm", "program"),
        ("succesful", "successful"),
        ("realy?", "really?"),
        ("teh cat", "teh cat"),  # short words are too often others
        ("herpes", "herpes"),
        ("numpy.ndarray", "numpy.ndarray"),
        ("naïvté", "naïvté"),
        ("snake_caes", "snake_caes"),
    ],
)
def test_only_slips_of_unknown_words_are_undone(written: str, meant: str) -> None:
    assert SPELLER.corrected(written).lower() == meant.lower()


def test_words_that_are_right_keep_their_case() -> None:
    text = "Please READ the Encyclopedia, it's really fun.\n\tThanks"
    assert SPELLER.corrected(text) == text


def encoder_alone(folder: Path) -> SentenceEncoder:
    for name in ("encoder.onnx", "tokenizer.json"):
        (folder / name).symlink_to(DEFAULT_FOLDER / name)
    return SentenceEncoder(folder, max_tokens=16)


def test_what_several_training_prompts_hold_is_a_word(tmp_path: Path) -> None:
    prompts = ["the Poisson process", "a poisson law", "Poisson again", "recieve"]
    speller = Speller.of(encoder_alone(tmp_path), prompts)
    assert SPELLER.corrected("Poisson") == "poison"
    assert speller.corrected("Poisson recieve") == "Poisson receive"
    assert speller.words == {"poisson"}


def test_what_the_artifact_of_the_encoder_knew_is_a_word(tmp_path: Path) -> None:
    encoder = encoder_alone(tmp_path)
    Speller(encoder.tokenizer, {"clots"}).save(tmp_path)
    assert Speller.of(encoder, ["no word of these"] * 3).words == {"clots"}


def test_the_words_are_kept(tmp_path: Path) -> None:
    speller = Speller(shipped_encoder().tokenizer, {"poisson", "clots"})
    speller.save(tmp_path)
    loaded = Speller.load(shipped_encoder().tokenizer, tmp_path)
    assert (loaded.words, loaded.digest) == (speller.words, speller.digest)
    assert loaded.digest != SPELLER.digest


def test_both_ends_of_a_long_text_are_put_right_and_its_middle_is_not() -> None:
    text = "recieve " * 1_000
    corrected = SPELLER.corrected(text)
    assert corrected.startswith("receive " * 124)
    assert corrected.endswith("receive " * 124)
    assert corrected.count("receive") < 260
    assert len(corrected) == len(text)


@pytest.mark.parametrize(
    "tokenizer",
    [
        Tokenizer(models.WordPiece({"[UNK]": 0, "Texas": 1, "taxes": 2}, unk_token="[UNK]")),
        Tokenizer(models.BPE({"angle": 0, "Ġangel": 1}, [])),
    ],
    ids=["cased", "byte pairs"],
)
def test_with_another_kind_of_vocabulary_a_text_stays(tokenizer: Tokenizer) -> None:
    assert Speller(tokenizer).corrected("texas taxse angel anlge") == "texas taxse angel anlge"


def test_no_word_is_that_long() -> None:
    assert SPELLER.corrected("functoin" * 500) == "functoin" * 500


@given(st.text(max_size=300))
def test_any_text_is_taken_and_a_corrected_one_stays(text: str) -> None:
    once = SPELLER.corrected(text)
    assert SPELLER.corrected(once) == once
