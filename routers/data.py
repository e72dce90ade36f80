"""Labelled prompts: read, cleaned, capped and split."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

_SHOWN_ERRORS = 20
_Item = TypeVar("_Item")


class DataError(ValueError):
    """A data file cannot be used; the message names file and lines.

    Attributes
    ----------
    rows : sequence of Row
        Of which the message speaks where it does not know their lines; see `places`.
    """

    def __init__(self, message: str, rows: Sequence[Row] = ()) -> None:
        super().__init__(message)
        self.rows = rows


class Row(msgspec.Struct, frozen=True):
    """One labelled prompt.

    Attributes
    ----------
    prompt : str
        What is classified.
    category : str
        Its label.
    source : str
        Where it comes from; "" when the file does not say.
    licence : str
        Terms it may be used under; "" when the file does not say.
    """

    prompt: str
    category: str
    source: str = ""
    licence: str = ""


class _Prompt(msgspec.Struct):
    prompt: str


class _Category(msgspec.Struct):
    category: str | None


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """Read labelled prompts from JSON lines, gzipped when the name ends in ``.gz``.

    Raises
    ------
    DataError
        A file cannot be read or lines are bad: each is named with its reason.
    """
    return read_lines(paths, _row, '{"prompt": str, "category": str}')


def read_labelled(paths: Sequence[Path]) -> tuple[list[Row], int]:
    """Read as `read_rows` does, but leave out rows whose category is null.

    Returns
    -------
    rows : list of Row
    n_unlabelled : int
        How many were left out.
    """
    rows = read_lines(paths, _row_or_unlabelled, '{"prompt": str, "category": str or null}')
    labelled = [row for row in rows if row is not None]
    if not labelled:
        raise DataError(f"{', '.join(map(str, paths))} must hold labelled rows; got none")
    return labelled, len(rows) - len(labelled)


def read_prompts(paths: Sequence[Path]) -> list[str]:
    """Read the prompts alone; raises as `read_rows` does."""
    return read_lines(paths, _prompt, '{"prompt": str}')


def places(paths: Sequence[Path], indices: Iterable[int]) -> list[str]:
    """Return file and line of the rows that `read_rows` gave at these indices."""
    found = [f"{path}:{number}" for path in paths for number, _ in _lines(path)]
    return [found[index] for index in indices]


def contradicting(rows: Sequence[Row]) -> list[int]:
    """Return the indices of rows whose prompt comes with two categories or more."""
    groups = _groups(rows, lambda row: normalised(row.prompt)).values()
    several = (group for group in groups if len({rows[index].category for index in group}) > 1)
    return [index for group in several for index in group]


def alike_categories(rows: Iterable[Row]) -> list[list[str]]:
    """Return the categories that differ from one another in case and spacing only."""
    categories = sorted({row.category for row in rows})
    groups = _groups(categories, normalised).values()
    return [[categories[index] for index in group] for group in groups if len(group) > 1]


def without_duplicates(rows: Iterable[Row]) -> list[Row]:
    """Keep the first of the rows that differ in case and spacing only.

    Prompts that come with two categories are dropped: nobody can learn both.
    """
    rows = list(rows)
    contradicted = set(contradicting(rows))
    groups = _groups(rows, lambda row: normalised(row.prompt)).values()
    return [rows[group[0]] for group in groups if group[0] not in contradicted]


def normalised(prompt: str) -> str:
    """Return the prompt without the differences of case and spacing."""
    return " ".join(prompt.casefold().split())


def capped(
    rows: Sequence[_Item], limit: int | None, key: Callable[[_Item], Hashable], seed: int
) -> list[_Item]:
    """Keep at most `limit` rows, chosen by `seed`, for each value of `key`; None keeps all."""
    if limit is None:
        return list(rows)
    kept: list[int] = []
    for indices in _groups(rows, key).values():
        order = np.random.default_rng(seed).permutation(len(indices))
        kept.extend(indices[i] for i in order[:limit])
    return [rows[i] for i in sorted(kept)]


def split(rows: Sequence[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Cut a hold-out: `fraction` of every category's rows, at least one of each.

    Returns
    -------
    training, held_out : list of Row

    Raises
    ------
    DataError
        A category has one row only.
    """
    groups = _groups(rows, lambda row: row.category)
    lonely = [rows[indices[0]] for indices in groups.values() if len(indices) < 2]
    if lonely:
        names = ", ".join(sorted(row.category for row in lonely))
        raise DataError(f"every category must have two rows or more; got one for {names}", lonely)
    held: set[int] = set()
    for indices in groups.values():
        order = np.random.default_rng(seed).permutation(len(indices))
        n_held = min(max(1, round(fraction * len(indices))), len(indices) - 1)
        held.update(indices[i] for i in order[:n_held])
    training = [row for i, row in enumerate(rows) if i not in held]
    return training, [rows[i] for i in sorted(held)]


def dealt(rows: Sequence[Row], n_parts: int, seed: int) -> list[list[int]]:
    """Deal every category's rows out to parts by `seed`; return the indices of each, none empty."""
    parts: list[list[int]] = [[] for _ in range(n_parts)]
    for indices in _groups(rows, lambda row: row.category).values():
        order = np.random.default_rng(seed).permutation(len(indices))
        for turn, at in enumerate(order):
            parts[turn % n_parts].append(indices[at])
    return [part for part in parts if part]


def digest(rows: Iterable[Row]) -> str:
    """Return the SHA-256 of rows in their order."""
    content = hashlib.sha256()
    for row in rows:
        content.update(msgspec.json.encode(row) + b"\n")
    return content.hexdigest()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        got = getattr(error, "strerror", None) or error
        where = f" after line {number}" if number else ""
        raise DataError(f"{path} must be a readable JSON lines file; got {got}{where}") from error


def read_lines(paths: Sequence[Path], parse: Callable[[bytes], _Item], wanted: str) -> list[_Item]:
    """Read JSON lines, gzipped when the name ends in ``.gz``.

    Parameters
    ----------
    paths : sequence of Path
    parse : callable
        Turns one line into an item; raises ValueError for a bad one.
    wanted : str
        What a line must be, for errors.

    Raises
    ------
    DataError
        A file cannot be read or lines are bad: each is named with its reason.
    """
    items: list[_Item] = []
    problems: list[str] = []
    for path in paths:
        for number, line in _lines(path):
            try:
                items.append(parse(line))
            except (ValueError, RecursionError) as error:
                if number == 1 and line[:1].isalnum() and (b"," in line or b"\t" in line):
                    raise DataError(
                        f"{path} must hold JSON lines, each {wanted}; it looks like CSV or TSV. "
                        "Write each of its rows as a JSON object on a line"
                    ) from error
                problems.append(f"{path}:{number}: {error}")
    if problems:
        raise DataError(_report(problems, wanted))
    if not items:
        raise DataError(f"{', '.join(map(str, paths))} must hold lines {wanted}; got none")
    return items


def _row(line: bytes) -> Row:
    row = msgspec.json.decode(line, type=Row)
    _check_filled("prompt", row.prompt)
    _check_filled("category", row.category)
    return msgspec.structs.replace(row, category=row.category.strip())


def _row_or_unlabelled(line: bytes) -> Row | None:
    if msgspec.json.decode(line, type=_Category).category is None:
        return None
    return _row(line)


def _prompt(line: bytes) -> str:
    prompt = msgspec.json.decode(line, type=_Prompt).prompt
    _check_filled("prompt", prompt)
    return prompt


def _check_filled(name: str, value: str) -> None:
    if not value.strip():
        raise ValueError(f"{name} must not be blank; got {value!r}")


def _groups(rows: Sequence[_Item], key: Callable[[_Item], Hashable]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[key(row)].append(index)
    return groups


def _report(problems: Sequence[str], wanted: str) -> str:
    shown = "\n".join(problems[:_SHOWN_ERRORS])
    more = len(problems) - _SHOWN_ERRORS
    tail = f"\n... and {more} more" if more > 0 else ""
    return f"each line must be {wanted}; got {len(problems)} others. Mend or drop:\n{shown}{tail}"
