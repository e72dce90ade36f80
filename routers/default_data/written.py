"""Prompts written for this project: free-form requests that exam and forum data lack.

``written.toml`` holds patterns and lists; a prompt is a template whose slots are filled by chance.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from random import Random

import msgspec

from routers.data import Row, normalised

LICENCE = "Apache-2.0 (written for this project)"

_FILE = Path(__file__).with_name("written.toml")
_SLOT = re.compile(r"\{([A-Za-z]\w*)\}")
_TRIES_PER_ROW = 20

Bounds = tuple[int, int]


class _Pattern(msgspec.Struct, frozen=True):
    category: str
    share: float
    templates: list[str] | str
    slots: dict[str, str | Bounds]


class _Grammar(msgspec.Struct, frozen=True):
    rows: dict[str, int]
    lists: dict[str, list[str]]
    patterns: list[_Pattern]


def written_rows(seed: int) -> list[Row]:
    """Write the prompts that `written.toml` describes; fewer where its patterns run dry."""
    grammar = msgspec.convert(tomllib.loads(_FILE.read_text(encoding="utf-8")), _Grammar)
    rng = Random(seed)  # noqa: S311 (no secret)
    rows = []
    for category, n_rows in grammar.rows.items():
        patterns = [pattern for pattern in grammar.patterns if pattern.category == category]
        shares = [pattern.share for pattern in patterns]
        prompts: dict[str, str] = {}
        for _ in range(_TRIES_PER_ROW * n_rows):
            (pattern,) = rng.choices(patterns, shares)
            prompt = _write(pattern, grammar.lists, rng)
            prompts.setdefault(normalised(prompt), prompt)
            if len(prompts) == n_rows:
                break
        source = f"written_{category}"
        rows += [Row(prompt, category, source, LICENCE) for prompt in prompts.values()]
    return rows


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
