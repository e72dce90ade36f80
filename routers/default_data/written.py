"""Prompts written for this project: free-form requests that exam and forum data lack.

Every file of ``asked/`` holds prompts of one category that were written one by one, each on a line;
a backslash and an n stand for a line's end in it.

Every file of ``written/`` holds the patterns of one category and their lists, ``shared.toml`` lists
for all. A pattern is templates, and slots for the ``{name}`` in them: the name of a list, or two
bounds of a whole number; ``{Name}`` asks for a capital. A prompt is a template, chosen by the share
of its pattern, whose slots are filled by chance.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from routers.data import Row, normalised

LICENCE = "Apache-2.0 (written for this project)"

_ASKED = Path(__file__).with_name("asked")
_FOLDER = Path(__file__).with_name("written")
_SHARED = "shared.toml"
_SLOT = re.compile(r"\{([A-Za-z]\w*)\}")
_TRIES_PER_ROW = 20

Bounds = tuple[int, int]


class _Pattern(msgspec.Struct, frozen=True):
    share: float
    templates: list[str] | str
    slots: dict[str, str | Bounds]


class _Grammar(msgspec.Struct, frozen=True):
    category: str
    rows: int
    lists: dict[str, list[str]]
    patterns: list[_Pattern]


def asked_rows() -> list[Row]:
    """Return the prompts that were written one by one."""
    return [
        Row(line.replace("\\n", "\n"), path.stem, f"asked_{path.stem}", LICENCE)
        for path in sorted(_ASKED.glob("*.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def written_rows(seed: int) -> list[Row]:
    """Write the prompts that the grammars describe; fewer where their patterns run dry."""
    shared = _read(_FOLDER / _SHARED)["lists"]
    rng = Random(seed)  # noqa: S311 (no secret)
    rows = []
    for path in sorted(_FOLDER.glob("*.toml")):
        if path.name == _SHARED:
            continue
        grammar = msgspec.convert(_read(path), _Grammar)
        source = f"written_{grammar.category}"
        prompts = _prompts(grammar, {**shared, **grammar.lists}, rng)
        rows += [Row(prompt, grammar.category, source, LICENCE) for prompt in prompts]
    return rows


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _prompts(grammar: _Grammar, lists: dict[str, list[str]], rng: Random) -> list[str]:
    """Return up to ``grammar.rows`` prompts that differ in more than case and spacing."""
    shares = [pattern.share for pattern in grammar.patterns]
    prompts: dict[str, str] = {}
    for _ in range(_TRIES_PER_ROW * grammar.rows):
        (pattern,) = rng.choices(grammar.patterns, shares)
        prompt = _write(pattern, lists, rng)
        prompts.setdefault(normalised(prompt), prompt)
        if len(prompts) == grammar.rows:
            break
    return list(prompts.values())


def _write(pattern: _Pattern, lists: dict[str, list[str]], rng: Random) -> str:
    templates = pattern.templates
    template = rng.choice(lists[templates] if isinstance(templates, str) else templates)
    values = {
        name: rng.choice(lists[slot]) if isinstance(slot, str) else str(rng.randint(*slot))
        for name, slot in pattern.slots.items()
    }
    # Twice: what fills a slot, a piece of code for example, may have slots too.
    prompt = _fill(_fill(template, values), values)
    return prompt[:1].upper() + prompt[1:] if rng.random() < 0.5 else prompt


def _fill(template: str, values: dict[str, str]) -> str:
    """Put values in place of ``{name}``, with a capital for ``{Name}``; leave other braces."""

    def replacement(found: re.Match[str]) -> str:
        name = found.group(1)
        value = values.get(name.lower())
        if value is None:
            return found.group()
        return value if name.islower() else value[:1].upper() + value[1:]

    return _SLOT.sub(replacement, template)
