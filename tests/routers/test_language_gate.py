from __future__ import annotations

import numpy as np
import pytest

from routers.bag import BagRouter
from routers.language_gate import LanguageGate
from tests.prompts import toy_rows

GERMAN = "Wie lange muss ich das Hähnchen im Ofen braten, damit es gar ist?"
JAPANESE = "日本の首都はどこですか。"
ENGLISH = "How long should I roast the chicken in the oven?"


@pytest.fixture(scope="module")
def gate() -> LanguageGate:
    rows = toy_rows()
    gate = LanguageGate(BagRouter("toy"), "general")
    return gate.fit([row.prompt for row in rows], [row.category for row in rows])


def test_other_languages_have_one_category(gate: LanguageGate) -> None:
    german, japanese, english = gate.predict_proba([GERMAN, JAPANESE, ENGLISH])
    assert german.tolist() == japanese.tolist() == [0, 0, 1]
    assert gate.categories_[english.argmax()] == "cooking"
    assert english.tobytes() == gate.router.predict_proba([ENGLISH]).tobytes()


def test_a_language_that_takes_a_model_is_not_told_at_once(gate: LanguageGate) -> None:
    assert all(callable(gate.predict_or_defer(text)) for text in (GERMAN, JAPANESE))
    row = gate.predict_or_defer(ENGLISH)
    assert not callable(row)
    assert gate.categories_[row.argmax()] == "cooking"


def test_how_sure_the_gate_is_comes_from_held_out_prompts() -> None:
    rows = toy_rows()
    gate = LanguageGate(BagRouter("toy"), "general")
    gate.fit([row.prompt for row in rows], [row.category for row in rows])
    version = gate.version
    labels = ["general", "general", "cooking", "cooking"]
    answered = gate.calibrate([GERMAN, JAPANESE, GERMAN, ENGLISH], labels, np.ones(4))
    assert gate.foreign_confidence == (2 + 1) / (3 + 2)
    assert answered[0].tolist() == pytest.approx([0.2, 0.2, 0.6])
    assert gate.version != version


def test_without_english_prompts_only_the_gate_is_calibrated() -> None:
    rows = toy_rows()
    gate = LanguageGate(BagRouter("toy"), "general")
    gate.fit([row.prompt for row in rows], [row.category for row in rows])
    gate.calibrate([GERMAN], ["general"], np.ones(1))
    assert gate.router.predict_proba([ENGLISH]).sum() == pytest.approx(1)
    assert gate.foreign_confidence == 2 / 3


def test_what_no_prompt_speaks_of_stays_as_it_was() -> None:
    rows = toy_rows()
    gate = LanguageGate(BagRouter("toy"), "general")
    gate.fit([row.prompt for row in rows], [row.category for row in rows])
    labels = ["general", "general", *(row.category for row in rows[::7])]
    texts = [GERMAN, JAPANESE, *(row.prompt for row in rows[::7])]
    gate.calibrate(texts, labels, np.ones(len(texts)))
    before = gate.version
    english = gate.predict_proba([ENGLISH]).tolist()
    gate.calibrate([JAPANESE, GERMAN], labels[:2], np.ones(2))
    assert gate.predict_proba([ENGLISH]).tolist() == english
    assert (gate.version, gate.foreign_confidence) == (before, 3 / 4)
    gate.calibrate([ENGLISH], ["coding"], np.ones(1))
    assert gate.foreign_confidence == 3 / 4
    assert gate.predict_proba([ENGLISH]).tolist() != english
    assert gate.version != before


def test_the_category_must_be_among_the_labels() -> None:
    with pytest.raises(ValueError, match="must hold the category 'foreign'"):
        LanguageGate(BagRouter("toy"), "foreign").fit(["a", "b"], ["x", "y"])
