"""Which language a request is written in."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eval.language import measure, read_samples
from routers.language import Language, identify, is_english

PROMPTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "prompts"

ENGLISH = [
    "hi",
    "Hello!",
    "why?",
    "thanks a lot",
    "tell joke",
    "commit it",
    "sort a list in rust",
    "sql join two tables",
    "best pizza chicago",
    "java vs kotlin",
    "vladimir putin",
    "rio de janeiro",
    "Barack Obama",
    "Friedrich Nietzsche Also sprach Zarathustra summary",
    "whats teh captial of frnace",
    "symptoms diabetes type 2",
    "define entropy",
    "2+2",
    "x^2 + 3x = 4",
    "Simplify\n\\[\\sin 70^\\circ \\cos 50^\\circ + \\sin 260^\\circ \\cos 280^\\circ.\\]",
    "Find $\\alpha$ and $\\beta$ such that \u03b1 + \u03b2 = 1.",
    "\u2211 \u03b1_i \u03b2_i = \u03b3",
    "def f(x):\n    return x ** 2",
    "```python\nnombre = 'hola'\nprint(nombre)\n```",
    "SELECT id, name FROM users WHERE id = 3;",
    "Traceback (most recent call last):\nKeyError: 'foo'",
    "npm install --save-dev typescript",
    "What does 你好 mean?",
    "Translate to German: good morning",
    "",
    " \n\t",
    "👍👍",
    "1234567890",
    "\ud800",
    "\x00",
]

FOREIGN = [
    ("Wie sortiere ich eine Liste in Python?", "de"),
    ("¿Cuáles son los síntomas de la gripe?", "es"),
    ("Écris un poème sur la mer et le vent.", "fr"),
    ("Quali sono i diritti del consumatore in Italia?", "it"),
    ("Quais são os sintomas da dengue?", "pt"),
    ("Türkiye'nin en büyük gölü hangisidir?", "tr"),
    ("Làm thế nào để học lập trình nhanh hơn?", "vi"),
    ("Напиши функцию, которая сортирует список.", "ru"),
    ("你好", "zh"),
    ("请用Python写一个快速排序算法", "zh"),
    ("富士山の高さは何メートルですか。", "ja"),
    ("파이썬으로 피보나치 수열을 구현해줘", "ko"),
    ("ما هي عاصمة فرنسا؟", "ar"),
    ("भारत की राजधानी क्या है?", "hi"),
    ("สวัสดี คุณสบายดีไหม", "th"),
    ("Ποια είναι η πρωτεύουσα της Ελλάδας;", "el"),
    ("מהי בירת צרפת?", "he"),
    ("Sortiere bitte diese Liste absteigend:\n```python\nthe_list = [what, is, this]\n```", "de"),
]


@pytest.mark.parametrize("text", ENGLISH)
def test_english_and_what_has_no_language_is_english(text: str) -> None:
    assert is_english(text)
    assert identify(text).code == "en"


@pytest.mark.parametrize(("text", "code"), FOREIGN)
def test_another_language_is_identified(text: str, code: str) -> None:
    assert identify(text).code == code
    assert not is_english(text)


def test_both_ends_of_a_long_text_are_looked_at() -> None:
    code = "\n".join(f"x_{i} = {i}" for i in range(2_000))
    assert (
        identify(f"{code}\nWas macht dieses Programm, und warum ist das so langsam?").code == "de"
    )
    assert (
        identify(f"Was macht dieses Programm, und warum ist das so langsam?\n{code}").code == "de"
    )


def test_confidence_says_what_the_answer_rests_on() -> None:
    assert identify("2 + 2 = 4") == Language("en", 0.0)
    assert identify("What is the capital of France?") == Language("en", 1.0)
    assert identify("Wie sortiere ich eine Liste in Python?").confidence > 0.9


MARKS = st.sampled_from(["about", "$", "`", "_", "\x00", "\x1c", "\n"])


@example("$about$")
@example("about\x00_")
@example("about\x7f_")
@given(st.lists(MARKS, max_size=5).map("".join))
def test_ascii_is_read_as_any_other_text(text: str) -> None:
    """A no-break space is a space, and the text that holds it is not ASCII."""
    assert identify(f"{text} ") == identify(f"{text}\u00a0")


@given(st.text(max_size=200))
def test_any_text_has_a_language(text: str) -> None:
    language = identify(text)
    assert len(language.code) == 2
    assert 0 <= language.confidence <= 1 + 1e-6
    assert language == identify(text)


@pytest.mark.parametrize("unit", ["a", "$a", "`", "`a\n", "(", "```", "\\", "a ", "字", "\ud800"])
def test_hostile_text_takes_little_time(unit: str) -> None:
    script = """
import sys
from routers.language import identify
identify(sys.argv[1].encode().decode("unicode_escape") * 2_500_000)
"""
    escaped = unit.encode("unicode_escape").decode()
    subprocess.run([sys.executable, "-c", script, escaped], check=True, timeout=60)


def test_the_model_is_loaded_only_for_a_text_that_needs_it() -> None:
    script = """
import sys
from routers.language import is_english
assert "py3langid" not in sys.modules
assert is_english("What is the capital of France?")
assert is_english("Solve for x: two x squared minus 12 x equals zero, and show all steps.")
assert "py3langid" not in sys.modules
assert not is_english("Quelle est la capitale de la France ?")
assert "py3langid" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_threads_get_the_same_answers() -> None:
    texts = [text for text, _ in FOREIGN] * 20
    alone = [identify(text) for text in texts]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(identify, texts)) == alone


@pytest.mark.skipif(not PROMPTS.exists(), reason="labelled prompts are not here")
def test_english_prompts_are_hardly_ever_called_foreign() -> None:
    # These sources hold prompts in other languages labelled English.
    skip = ["arena_hard_v2", "biggen", "autoj_testdata", "autoj_traindata", "autoj_pairwise"]
    samples = list(read_samples(PROMPTS / "test_id.jsonl.gz", skip))
    rates = measure(lambda text: identify(text).code, samples)
    assert rates.false_foreign <= 0.002
    assert rates.false_foreign_short <= 0.005
    assert rates.missed_foreign <= 0.05
    assert rates.correct_code >= 0.93
