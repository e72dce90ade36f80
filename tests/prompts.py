"""Small labelled prompts, and prompts that nobody would write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from uuid import uuid4

from routers.artifact import DEFAULT_FOLDER
from routers.data import Row
from routers.encoder import SentenceEncoder


def prompt_for_the_cheap_stage() -> str:
    """Return a new prompt of which the default router's cheap stage is surely sure."""
    return f"Write a Python function that sorts a list of {uuid4().int % 10**12} integers."


def prompt_for_the_encoder() -> str:
    """Return a new prompt of which the default router's cheap stage is never sure."""
    return f"What is on ticket number {uuid4().int % 10**12}?"


TOPICS = {
    "coding": (
        ("Write a {} function that {}.", "How do I make {} code that {}?", "My {} script {}, why?"),
        ("Python", "Rust", "JavaScript", "C++", "Go"),
        ("sorts a list", "reads a CSV file", "parses JSON", "opens a socket"),
    ),
    "cooking": (
        ("How long do I {} {}?", "Give me a recipe to {} {}.", "Which herbs go well when I {} {}?"),
        ("roast", "boil", "fry", "bake", "grill"),
        ("a whole chicken", "potatoes", "salmon", "aubergines"),
    ),
    "general": (
        ("What should I {} {}?", "Please help me {} {}.", "I want to {} {}, any idea?"),
        ("say to my friend", "wear", "plan", "buy", "do"),
        ("this weekend", "on a rainy day", "for a birthday", "when I am bored"),
    ),
}

NASTY = (
    "",
    " ",
    "\x00",
    "\x1b[31m\x07\r\n\t",
    "\ud800 lone surrogate \udfff",
    "é́́́ \u202e right to left \u200b\ufeff",
    "🧑‍🚀" * 50,
    "字" * 3_000,
    "a" * 100_000,
    "word " * 20_000,
    "[CLS] [SEP] [PAD] [MASK] [UNK]",
    "\n" * 1_000,
)


def toy_rows() -> list[Row]:
    """Return 60 prompts of each topic, the first words in turn."""
    return [
        Row(pattern.format(first, second), category, source=f"toy_{category}")
        for category, (patterns, firsts, seconds) in TOPICS.items()
        for second in seconds
        for first in firsts
        for pattern in patterns
    ]


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    """Write JSON lines; a `Row` or anything that JSON can hold."""
    plain = (
        {"prompt": row.prompt, "category": row.category, "source": row.source}
        if isinstance(row, Row)
        else row
        for row in rows
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")
    return path


@cache
def shipped_encoder() -> SentenceEncoder:
    """Return the encoder that ships, reading little so that tests are quick."""
    return SentenceEncoder(DEFAULT_FOLDER, max_tokens=32)
