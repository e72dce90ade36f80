"""A slow router labels prompts, so that a small one can learn from it and then stands alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from routers.base import Router, RouterError
from routers.data import Row
from routers.kept import read_kept
from routers.progress import Progress, silent

_FAILURES_IN_ROW = 10
"""After so many, labelling stops: the teacher is down, and each may take its whole time limit."""
_LEAST_SHARE = 0.5
"""Of the prompts that must get a label."""

OpenTeacher = Callable[[str, Path | None], AbstractContextManager[Router]]
"""Opens the router that ``--distil`` names, with the categories of a file or, for None, its own;
raises ValueError for a name it does not know."""


def distilled_rows(
    teacher: Router, prompts: Sequence[str], log: Path, progress: Progress = silent
) -> tuple[list[Row], dict[int, str]]:
    """Label every prompt with the teacher's most probable category.

    Every label goes to `log` at once, as a labelled row: a run that was cut goes on where it was.
    Labels of another teacher there, or of this one with other categories, are left alone.

    Parameters
    ----------
    teacher : Router
        Asked once a prompt, one after the other.
    prompts : sequence of str
    log : Path
        JSON lines; need not exist.
    progress : Progress
        Told after every prompt.

    Returns
    -------
    list of Row
    dict of int to str
        Number of every prompt that the teacher could not label, from 1, and why.

    Raises
    ------
    RouterError
        The teacher fails time after time, or has labelled too few; the labels so far are kept.

    References
    ----------
    A router distilled into a small frozen one: StableMoE (arXiv 2204.08396).
    """
    source = f"labelled by {teacher.name}@{teacher.version}"
    known = {row.prompt: row for row in read_kept(log, _row, "a label") if row.source == source}
    rows: list[Row] = []
    failures: dict[int, str] = {}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for number, prompt in enumerate(prompts, start=1):
            try:
                if prompt not in known:
                    known[prompt] = Row(prompt, _label(teacher, prompt), source)
                    file.write(msgspec.json.encode(known[prompt]) + b"\n")
                    file.flush()
                rows.append(known[prompt])
            except RouterError as error:
                failures[number] = str(error)
                if all(number - back in failures for back in range(_FAILURES_IN_ROW)):
                    raise _given_up(
                        f"{_FAILURES_IN_ROW} prompts in a row", failures, log
                    ) from error
            progress("labelling", number, len(prompts))
    if len(rows) < _LEAST_SHARE * len(prompts):
        raise _given_up(f"{len(failures)} of {len(prompts)} prompts", failures, log)
    return rows, failures


def _label(teacher: Router, prompt: str) -> str:
    (probabilities,) = teacher.predict_proba([prompt])
    return teacher.categories_[int(probabilities.argmax())]


def _row(line: bytes) -> Row:
    return msgspec.json.decode(line, type=Row)


def _given_up(what: str, failures: Mapping[int, str], log: Path) -> RouterError:
    return RouterError(
        f"the teacher must label most prompts; of {what} it labelled none: "
        f"{list(failures.values())[-1]}. Mend it and run the command again: it goes on where it "
        f"was, with the labels in {log}"
    )
