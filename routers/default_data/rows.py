"""Raw labelled data -> the rows that the router that ships learns from."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random

import msgspec

from routers.data import Row, capped, normalised, without_duplicates

FOREIGN_CATEGORY = "multilingual"

_ROWS_PER_SOURCE = 700
_ROWS_PER_FOREIGN_SOURCE = 100
"""Other languages are told apart before the router is asked; it sees few of them."""
_ROWS_OF_SOURCE = {
    "clinc_train": 1_500,
    "dolly": 1_000,
    "gsm8k_train": 900,
    "mmlu": 1_200,
    "privacyqa": 600,
    "xquad_en": 500,
}
"""Caps of each category of a source where they differ from `_ROWS_PER_SOURCE`."""

_UNSEEN_ROWS = 150
"""Rows of each category of a source that are only calibrated on."""

_OPTIONS = re.compile(r"\n\s*\(?[A-J][.):]\s")
_STRIPPED_SHARE = 0.6
_MIN_QUESTION_CHARS = 15

_TRANSLATIONS = 900
_BACK_TRANSLATIONS = 0.4
"""Share of translation requests from another language into English."""
_ALMA = re.compile("alma_.*_([a-z]{2})-en")
_LANGUAGES = {"cs": "Czech", "de": "German", "is": "Icelandic", "ru": "Russian", "zh": "Chinese"}
_TARGETS = (
    *("Arabic", "Czech", "Dutch", "Finnish", "French", "German", "Greek", "Hebrew", "Hindi"),
    *("Icelandic", "Italian", "Japanese", "Korean", "Latin", "Polish", "Portuguese", "Russian"),
    *("Chinese", "Spanish", "Swedish", "Thai", "Turkish", "Ukrainian", "Vietnamese"),
)
_ENGLISH_SOURCES = frozenset(
    (
        *("banking77_train", "boolq", "clinc_train", "cqadupstack_gaming", "dolly"),
        *("gsm8k_train", "nq_open", "pubmedqa", "xquad_en"),
    )
)
_REQUESTS = (
    "Translate this into {target}: {text}",
    "Translate the following {source} text to {target}.\n\n{text}",
    'How do you say "{text}" in {target}?',
    "{text}\n\nTranslate to {target}.",
    "Please translate from {source} into {target}:\n{text}",
    "What would this be in {target}? {text}",
    "{source}: {text}\n{target}:",
    "Give me a {target} version of this sentence: {text}",
    "I need this in {target} - {text}",
    'Can you put this into natural {target}?\n"{text}"',
    "Render the text below in {target}, keeping the tone.\n---\n{text}",
    "Translation ({source} to {target}) of: {text}",
    'how would I write "{text}" in {target}',
    'what does "{text}" mean in {target}',
)


class RawRow(msgspec.Struct, frozen=True):
    """One row of the raw data; other fields are ignored."""

    source: str
    prompt: str
    category: str | None
    licence: str = ""
    licence_ok: bool = False


def read_raw(path: Path) -> list[RawRow]:
    """Read a gzipped file of raw rows, one JSON object a line."""
    decoder = msgspec.json.Decoder(RawRow)
    with gzip.open(path, "rb") as file:
        return [decoder.decode(line) for line in file]


def default_rows(raw: Sequence[RawRow], tested: Iterable[str], seed: int) -> tuple[list[Row], int]:
    """Choose and shape the training rows.

    Parameters
    ----------
    raw : sequence of RawRow
        Only labelled rows whose licence permits redistribution are taken.
    tested : iterable of str
        Prompts of test sets; rows with the same prompt are removed.
    seed : int

    Returns
    -------
    rows : list of Row
        Capped by source, multiple-choice options stripped from a part, translation requests
        added.
    n_leaks : int
        Rows removed for standing in a test set.
    """
    rng = Random(seed)  # noqa: S311 (no secret)
    labelled = [
        Row(row.prompt, row.category, row.source, row.licence)
        for row in raw
        if row.licence_ok and row.category
    ]
    leaked = {normalised(prompt) for prompt in tested}
    rows = [row for row in labelled if normalised(row.prompt) not in leaked]
    chosen = [_sometimes_without_options(row, rng) for row in _capped(rows, seed)]
    return chosen + _translation_requests(rows, rng), len(labelled) - len(rows)


def unseen_rows(raw: Sequence[RawRow], seed: int) -> list[Row]:
    """Choose labelled rows whose licence forbids to ship what learned from them.

    Nothing is trained on their sources, so they show how sure the router may be elsewhere.
    """
    rows = [
        Row(row.prompt, row.category, row.source, row.licence)
        for row in raw
        if row.category and not row.licence_ok
    ]
    return capped(rows, _UNSEEN_ROWS, lambda row: (row.source, row.category), seed)


def _capped(rows: Sequence[Row], seed: int) -> list[Row]:
    """Cap every category of every source."""
    groups: dict[int, list[Row]] = {}
    for row in without_duplicates(rows):
        foreign = row.category == FOREIGN_CATEGORY
        usual = _ROWS_PER_FOREIGN_SOURCE if foreign else _ROWS_PER_SOURCE
        limit = usual if foreign else _ROWS_OF_SOURCE.get(row.source, usual)
        groups.setdefault(limit, []).append(row)
    kept = []
    for limit, group in sorted(groups.items()):
        kept += capped(group, limit, lambda row: (row.source, row.category), seed)
    return kept


def _sometimes_without_options(row: Row, rng: Random) -> Row:
    """Drop the options of most multiple-choice questions: people ask without them."""
    options = _OPTIONS.search(row.prompt)
    if options is None or options.start() < _MIN_QUESTION_CHARS or rng.random() > _STRIPPED_SHARE:
        return row
    question = row.prompt[: options.start()].strip()
    return Row(question, row.category, row.source, row.licence)


def _translation_requests(rows: Sequence[Row], rng: Random) -> list[Row]:
    """Ask for translations of sentences from other sources, in many phrasings."""
    foreign = [(row, found.group(1)) for row in rows if (found := _ALMA.fullmatch(row.source))]
    english = [row for row in rows if row.source in _ENGLISH_SOURCES and 15 < len(row.prompt) < 180]
    made = []
    for _ in range(_TRANSLATIONS if foreign and english else 0):
        if rng.random() < _BACK_TRANSLATIONS:
            row, code = rng.choice(foreign)
            source, target = _LANGUAGES[code], "English"
        else:
            row = rng.choice(english)
            source, target = "English", rng.choice(_TARGETS)
        request = rng.choice(_REQUESTS)
        prompt = request.format(source=source, target=target, text=row.prompt[:200])
        made.append(Row(prompt, FOREIGN_CATEGORY, f"{row.source} as request", row.licence))
    return made
