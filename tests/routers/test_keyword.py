"""An operator's rules, tried before another router."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.bag import BagRouter
from routers.base import FloatArray, Router, windows
from routers.keyword import KeywordRouter, RuleError

FALLBACK_ROW = [0.5, 0.3, 0.2]


class CountingRouter:
    """Answers one row to everything and keeps what it was asked."""

    name = "constant"
    version = "7"
    categories_ = ("general", "coding", "law")
    active_params_b = 0.023
    min_margin = 0.25

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        self.asked += texts
        return np.tile(FALLBACK_ROW, (len(texts), 1))


def category(rules: Mapping[str, Sequence[str]], text: str) -> str:
    """Return the category a rule gives a text, "" when none matches."""
    row = KeywordRouter(rules, CountingRouter()).predict_proba([text])[0]
    return "" if row.tolist() == FALLBACK_ROW else CountingRouter.categories_[row.argmax()]


def test_a_rule_reads_a_text_whole_and_a_router_what_it_reads() -> None:
    fallback = BagRouter("bag").fit(["a tort", "a loop"], ["law", "coding"])
    router = KeywordRouter({"law": ["tort"]}, fallback)
    assert windows(router, "word " * 500 + "tort") == ()
    assert windows(router, "word " * 500) == windows(fallback, "word " * 500) != ()
    assert windows(KeywordRouter({"law": ["tort"]}, CountingRouter()), "word " * 500) == ()


def test_it_is_a_router_with_the_categories_of_its_fallback() -> None:
    router = KeywordRouter({"law": ["tort"]}, CountingRouter())
    assert isinstance(router, Router)
    assert router.categories_ == CountingRouter.categories_
    assert router.active_params_b == CountingRouter.active_params_b
    assert router.min_margin == CountingRouter.min_margin
    assert router.name == "keyword-constant"


def test_a_matched_prompt_is_certain_and_only_the_others_are_asked_on() -> None:
    fallback = CountingRouter()
    router = KeywordRouter({"law": ["tort"], "coding": ["c++"]}, fallback)
    rows = router.predict_proba(["hello", "a tort", "I like C++", "bye"])
    assert rows.tolist() == [FALLBACK_ROW, [0, 0, 1], [0, 1, 0], FALLBACK_ROW]
    assert fallback.asked == ["hello", "bye"]
    assert router.predict_proba([]).shape == (0, 3)


def test_the_first_category_in_the_rules_is_taken() -> None:
    text = "sue over a bug in C++"
    assert category({"law": ["sue"], "coding": ["c++"]}, text) == "law"
    assert category({"coding": ["c++"], "law": ["sue"]}, text) == "coding"


@pytest.mark.parametrize(
    ("rule", "text", "matches"),
    [
        ("tort", "What is a TORT?", True),
        ("tort", "tort", True),
        ("tort", "tortilla recipe", False),
        ("tort", "retort", False),
        ("tort", "tort_claim", False),
        ("breach of contract", "a breach\n  of\u00a0Contract.", True),
        ("breach of contract", "a breach of the contract", False),
        ("C++", "modern c++17", True),
        (".net", "ASP.NET core", True),
        ("größe", "DIE GRÖßE", True),
        ("größe", "Übergröße", False),
        ("café", "a cafe\u0301 in Paris", True),
        ("合同", "劳动合同法", True),
        ("계약", "계약서를 검토해줘", True),
        ("договор", "ДОГОВОР аренды", True),
        ("a|b", "a", False),
        ("a|b", "the a|b test", True),
        (r"/\bCVE-\d{4}-\d+/", "fix cve-2024-3094 now", True),
        (r"/\bCVE-\d{4}-\d+/", "fix CVE-24-3094 now", False),
        (r"/^def \w+\(/", "def f(x): pass", True),
        (r"/(?-i:SQL)/", "sql", False),
        ("/", "and/or", True),
        ("tort", "\ud800 tort \x00", True),
    ],
)
def test_what_a_rule_matches(rule: str, text: str, matches: bool) -> None:
    assert bool(category({"law": [rule]}, text)) is matches


def test_rules_of_one_category_do_not_disturb_each_other() -> None:
    rules = {"law": ["tort", "/x|y/", "合同", "c++", "/[k/]/"]}
    for text in ("a tort", "y", "劳动合同法", "c++", "k", "["):
        assert category(rules, text) == ("law" if text != "[" else "")
    assert category(rules, "tortilla") == ""


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"laww": ["tort"]}, r"rules\.laww: .*general, coding, law.*Did you mean 'law'"),
        ({"zebra": ["tort"]}, r"rules\.zebra: .*Choose one of them"),
        ({"law": "tort"}, r"rules\.law: must be a list of phrases; got 'tort'"),
        ({"law": []}, r"rules\.law: must be a list of phrases; got \[\]"),
        ({"law": ()}, r"rules\.law: must be a list of phrases; got \[\]"),
        ({"law": ["ok", " "]}, r"rules\.law\[1\]: must be a phrase"),
        ({"law": [3]}, r"rules\.law\[0\]: must be a phrase .*got 3"),
        ({"law": ["//"]}, r"rules\.law\[0\]: matches every prompt"),
        ({"law": ["/a*/"]}, r"rules\.law\[0\]: matches every prompt; got '/a\*/'"),
        ({"law": ["ok", "/(a/"]}, r"rules\.law\[1\]: .*got '/\(a/': missing \)"),
        ({"law": ["/a(?=b)/"]}, r"rules\.law\[0\]: .*RE2"),
        ({"law": ["/a|)b(/"]}, r"rules\.law\[0\]: .*unexpected \)"),
        (
            {"law": [f"/{i}{'.{1000}' * 9}/" for i in range(40)]},
            r"rules\.law: its 40 rules are too large",
        ),
    ],
)
def test_a_bad_rule_is_named_and_refused(rules: dict[str, Sequence[str]], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        KeywordRouter(rules, CountingRouter())


def test_the_version_changes_with_the_rules_their_order_and_the_fallback() -> None:
    def version(rules: dict[str, list[str]], fallback_version: str = "7") -> str:
        fallback = CountingRouter()
        fallback.version = fallback_version
        return KeywordRouter(rules, fallback).version

    rules = {"law": ["tort"], "coding": ["c++"]}
    assert version(rules) == version(dict(rules))
    others = [
        {"coding": ["c++"], "law": ["tort"]},
        {"law": ["tort", "sue"], "coding": ["c++"]},
        {"law": ["tort"]},
    ]
    versions = {version(rules), version(rules, "8"), *map(version, others)}
    assert len(versions) == 2 + len(others)


@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_text_gets_the_row_it_gets_alone(texts: list[str]) -> None:
    router = KeywordRouter({"law": ["a", "/b+c/"], "coding": ["0"]}, CountingRouter())
    rows = router.predict_proba(texts)
    assert rows.shape == (len(texts), 3)
    assert np.allclose(rows.sum(axis=1), 1)
    for text, row in zip(texts, rows, strict=True):
        assert np.array_equal(router.predict_proba([text])[0], row)


def test_no_expression_takes_more_than_linear_time() -> None:
    # A backtracking engine would not end in a lifetime.
    router = KeywordRouter({"law": ["/(a+)+$/", "/(.*)(.*)(.*)x/", "a a"]}, CountingRouter())
    assert router.predict_proba(["a" * 1_000_000 + "b"]).tolist() == [FALLBACK_ROW]
