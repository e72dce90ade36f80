"""Operators' overrides: a prompt that holds certain words goes to a certain category."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import re2

from routers.base import (
    Deferred,
    FloatArray,
    Router,
    Window,
    active_params_to_embed_b,
    encoder_digest,
    predict_and_embed,
    predict_or_defer,
    windows,
)

_MAX_BYTES = 32 << 20
"""Memory one category's rules may take: past it RE2 leaves its automaton for a slower search."""

# RE2's own \b and \s know ASCII only.
_NOT_IN_WORD = r"[^\pL\pM\pN_]"
_SPACE = r"[\s\pZ]+"
_IN_WORD = re.compile(r"\w")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)
"""Letters of scripts that put no space between words, or none before particles."""


class RuleError(ValueError):
    """A keyword rule cannot be used; the message names it and says how to mend it."""


class KeywordRouter:
    """Tries an operator's rules first and asks another router where none matches.

    It is a `routers.base.Router`: categories and their order are the fallback's, a matched prompt
    gets probability 1 for its category, any other the fallback's own row.

    Parameters
    ----------
    rules : mapping of str to sequence of str
        Category -> phrases and regular expressions. Where several categories match, the first in
        the mapping is taken.

        A phrase matches as whole words ("tort" is not in "tortilla"), in any case and with any
        white space between its words. ``/.../`` is a regular expression in RE2's syntax, found
        anywhere and in any case: RE2 takes time linear in the prompt whatever the expression, and
        so knows no backreferences and no look-around.
    fallback : Router
        Asked for the prompts that no rule matches.

    Attributes
    ----------
    active_params_b : float
        The fallback's; a prompt that a rule decides for (`matches`) really uses none.
    min_margin : float
        The fallback's; a matched prompt is above any.

    Raises
    ------
    RuleError
        A rule names a category the fallback does not have, is not a list of strings, is blank,
        matches every prompt, or is not a valid expression.

    References
    ----------
    RE2 syntax: https://github.com/google/re2/wiki/Syntax
    """

    def __init__(self, rules: Mapping[str, Sequence[str]], fallback: Router) -> None:
        self.name = f"keyword-{fallback.name}"
        self.version = f"{fallback.version}-{_digest(rules)}"
        self.categories_ = fallback.categories_
        self.active_params_b = fallback.active_params_b
        self.min_margin = fallback.min_margin
        self._fallback = fallback
        self._rules = rules
        self._patterns = [
            (_column(category, fallback), _compile_category(category, phrases))
            for category, phrases in rules.items()
        ]

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        """Return the probability of every category for every text; see `Router.predict_proba`."""
        columns = [self._match(text) for text in texts]
        rest = [text for text, column in zip(texts, columns, strict=True) if column is None]
        probabilities = np.zeros((len(texts), len(self.categories_)))
        if rest:
            probabilities[[column is None for column in columns]] = self._fallback.predict_proba(
                rest
            )
        for row, column in enumerate(columns):
            if column is not None:
                probabilities[row, column] = 1.0
        return probabilities

    def predict_or_defer(self, text: str) -> FloatArray | Deferred:
        """See `routers.base.QuickRouter.predict_or_defer`."""
        if self.matches(text):
            row: FloatArray = self.predict_proba([text])[0]
            return row
        return predict_or_defer(self._fallback, text)

    @property
    def encoder_digest(self) -> str | None:
        """See `routers.base.EncodingRouter`."""
        return encoder_digest(self._fallback)

    @property
    def active_params_to_embed_b(self) -> float:
        """See `routers.base.EncodingRouter`."""
        return active_params_to_embed_b(self._fallback)

    def predict_and_embed(self, text: str) -> tuple[FloatArray, FloatArray | None]:
        """See `routers.base.EncodingRouter.predict_and_embed`; a rule needs no embedding."""
        if self.matches(text):
            return self.predict_proba([text])[0], None
        return predict_and_embed(self._fallback, text)

    def windows(self, text: str) -> tuple[Window, ...]:
        """See `routers.base.WindowedRouter.windows`; rules are looked for in all of a text."""
        return () if self.matches(text) else windows(self._fallback, text)

    def matches(self, text: str) -> bool:
        """Whether a rule decides for a text, so that no router was really run."""
        return self._match(text) is not None

    def rule_for(self, text: str) -> str | None:
        """Return the rule that decides for a text, as it was written; None where none does.

        For people who ask: unlike `matches`, it compiles the rules of the category one by one.
        """
        column = self._match(text)
        rules = () if column is None else self._rules[self.categories_[column]]
        haystack = _haystack(text)
        return next((rule for rule in rules if _compile(_whole(rule)).search(haystack)), None)

    def _match(self, text: str) -> int | None:
        """Return the column of the first category with a rule that matches, None without one."""
        haystack = _haystack(text)
        for column, pattern in self._patterns:
            if pattern.search(haystack):
                return column
        return None


def _haystack(text: str) -> bytes:
    return unicodedata.normalize("NFC", text).encode("utf-8", "replace")


def _digest(rules: Mapping[str, Sequence[str]]) -> str:
    canonical = json.dumps([[category, list(phrases)] for category, phrases in rules.items()])
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _column(category: str, fallback: Router) -> int:
    if category in fallback.categories_:
        return fallback.categories_.index(category)
    close = get_close_matches(category, fallback.categories_, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else "Choose one of them."
    allowed = ", ".join(fallback.categories_)
    raise RuleError(
        f"rules.{category}: must be a category of router {fallback.name!r} ({allowed}); "
        f"got {category!r}. {hint}"
    )


def _compile_category(category: str, rules: Sequence[str]) -> Any:  # noqa: ANN401 - RE2 is untyped
    """Compile the rules of a category to one pattern, after each by itself to name the bad one."""
    if isinstance(rules, str) or not rules:
        raise RuleError(
            f"rules.{category}: must be a list of phrases; got {_as_written(rules)}. "
            'Write ["a phrase", "/an expression/"]'
        )
    by_edges = defaultdict(list)
    for i, rule in enumerate(rules):
        before, expression, after = _expression(f"rules.{category}[{i}]", rule)
        by_edges[before, after].append(expression)
    joined = (
        f"{before}(?:{'|'.join(expressions)}){after}"
        for (before, after), expressions in by_edges.items()
    )
    try:
        return _compile("|".join(joined))
    except re2.error as error:
        raise RuleError(
            f"rules.{category}: its {len(rules)} rules are too large; use fewer"
        ) from error


def _as_written(rules: Sequence[str]) -> str:
    return repr(rules if isinstance(rules, str) else list(rules))


def _expression(where: str, rule: str) -> tuple[str, str, str]:
    """Return the `_parts` of a rule after checking it."""
    if not isinstance(rule, str) or not rule.strip():
        raise RuleError(f"{where}: must be a phrase or /an expression/; got {rule!r}. Remove it")
    before, expression, after = _parts(rule)
    try:
        pattern = _compile(expression)
    except re2.error as error:
        reason = str(error.args[0], "utf-8", "replace")
        raise RuleError(
            f"{where}: must be a regular expression in RE2's syntax; got {rule!r}: {reason}. "
            "See https://github.com/google/re2/wiki/Syntax"
        ) from error
    if pattern.search(b""):
        raise RuleError(f"{where}: matches every prompt; got {rule!r}. Name what must be there")
    return before, expression, after


def _whole(rule: str) -> str:
    before, expression, after = _parts(rule)
    return f"{before}(?:{expression}){after}"


def _parts(rule: str) -> tuple[str, str, str]:
    """Return what a rule is in RE2: what stands before it, itself, what stands after it."""
    rule = unicodedata.normalize("NFC", rule.strip())
    if len(rule) > 1 and rule[0] == rule[-1] == "/":
        return "", rule[1:-1], ""
    before = rf"(?:\A|{_NOT_IN_WORD})" if _is_spaced(rule[0]) else ""
    after = rf"(?:{_NOT_IN_WORD}|\z)" if _is_spaced(rule[-1]) else ""
    return before, _SPACE.join(map(re2.escape, rule.split())), after


def _is_spaced(character: str) -> bool:
    """Say whether a phrase with this character at its edge must end there as a word."""
    return bool(_IN_WORD.match(character)) and not _UNSPACED.match(character)


def _compile(expression: str) -> Any:  # noqa: ANN401
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.never_capture = True
    options.max_mem = _MAX_BYTES
    return re2.compile(expression.encode(errors="replace"), options)
