from __future__ import annotations

from difflib import SequenceMatcher
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers import augment as changes
from routers.augment import augment

PROMPT = "How do I sort a list of tuples, by the second item?"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (changes.lower, "how do i sort a list of tuples, by the second item?"),
        (changes.upper, "HOW DO I SORT A LIST OF TUPLES, BY THE SECOND ITEM?"),
        (changes.title, "How Do I Sort A List Of Tuples, By The Second Item?"),
        (changes.without_punctuation, "How do I sort a list of tuples by the second item"),
    ],
)
def test_changes_of_form(change: object, expected: str) -> None:
    assert callable(change)
    assert change(PROMPT, Random(0)) == expected


@pytest.mark.parametrize(
    "change",
    [changes.politely_opened, changes.politely_closed, changes.distracted, changes.wrapped],
)
def test_added_words_leave_the_prompt_whole(change: object) -> None:
    assert callable(change)
    for seed in range(20):
        changed = change(PROMPT, Random(seed))
        assert PROMPT in changed
        assert len(changed) > len(PROMPT)


def test_typos_are_few() -> None:
    for seed in range(50):
        typed = changes.with_typos(PROMPT, Random(seed))
        assert abs(len(typed) - len(PROMPT)) <= 2
        assert SequenceMatcher(None, typed, PROMPT).ratio() > 0.9


def test_probability_zero_changes_nothing_and_one_nearly_always() -> None:
    assert all(augment(PROMPT, Random(seed), 0.0) == PROMPT for seed in range(50))
    assert sum(augment(PROMPT, Random(seed), 1.0) != PROMPT for seed in range(50)) > 45


@given(st.text(max_size=50), st.integers(0, 20))
def test_any_prompt_can_be_changed_again_alike(prompt: str, seed: int) -> None:
    assert augment(prompt, Random(seed), 1.0) == augment(prompt, Random(seed), 1.0)
