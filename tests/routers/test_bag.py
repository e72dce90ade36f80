from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from routers.arrays import write_arrays
from routers.bag import BagRouter
from tests.prompts import toy_rows

ROWS = toy_rows()
TEXTS = [row.prompt for row in ROWS]


@pytest.fixture(scope="module")
def bag() -> BagRouter:
    return BagRouter("toy").fit(TEXTS, [row.category for row in ROWS])


@pytest.mark.parametrize(
    ("prompt", "category"),
    [("pythn functoin", "coding"), ("chickens roasted", "cooking"), ("birthdaypresent", "general")],
)
def test_words_bent_or_typed_wrongly_are_known_by_their_letters(
    bag: BagRouter, prompt: str, category: str
) -> None:
    (row,) = bag.predict_proba([prompt])
    assert bag.categories_[row.argmax()] == category


def test_both_ends_of_a_long_text_are_read_and_its_middle_is_not(bag: BagRouter) -> None:
    filler = "lorem ipsum " * 100
    asked = "Write a Rust function that parses JSON."
    alone, start, end, middle = bag.predict_proba(
        [filler, asked + filler, filler + asked, filler + asked + filler]
    )
    coding = bag.categories_.index("coding")
    assert min(start[coding], end[coding]) > alone[coding]
    assert middle.tobytes() == alone.tobytes()


def test_a_long_number_counts_as_a_short_one(bag: BagRouter) -> None:
    short, long, year = bag.predict_proba(
        [f"Write a Rust function for {number} users." for number in (9, 10**17, 1999)]
    )
    assert long.tobytes() == short.tobytes() != year.tobytes()


def test_only_buckets_that_a_text_fell_into_count_as_parameters(bag: BagRouter) -> None:
    n_features = len({word for text in TEXTS for word in text.lower().split()})
    assert 3 * n_features < bag.active_params_b * 1e9 < bag.head_["coef"].size / 100


def test_a_table_of_another_size_answers_alike(tmp_path: Path) -> None:
    small = BagRouter("toy")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("routers.bag._WORD_BITS", 12)
        small.fit(TEXTS, [row.category for row in ROWS])
        expected = small.predict_proba(TEXTS)
    settings = small.write(tmp_path)
    loaded = BagRouter.load(tmp_path, "toy", small.categories_, settings)
    assert loaded.predict_proba(TEXTS).tobytes() == expected.tobytes()

    coef = small.head_["coef"][:-1]
    write_arrays(tmp_path / "head.npz", {**small.head_, "coef": coef})
    with pytest.raises(ValueError, match=r"coef must have 3 \* 2\^n rows; got 12287"):
        BagRouter.load(tmp_path, "toy", small.categories_, settings)


def test_probabilities_are_imitated() -> None:
    texts = ["red apple", "green apple", "red pear", "green pear"] * 5
    taught = np.array([[0.9, 0.1], [0.7, 0.3], [0.3, 0.7], [0.1, 0.9]] * 5)
    bag = BagRouter("toy").imitate(texts, taught, ("a", "b"))
    np.testing.assert_allclose(bag.predict_proba(texts), taught, atol=0.05)


def test_a_category_of_few_prompts_counts_as_much_as_the_others() -> None:
    texts = [*["blue bird"] * 90, *["blue boat"] * 10]
    bag = BagRouter("toy").fit(texts, ["bird"] * 90 + ["boat"] * 10)
    (row,) = bag.predict_proba(["blue"])
    assert abs(row[0] - row[1]) < 0.2
