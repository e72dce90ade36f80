"""A slow router labels prompts, so that a small one can learn from it and then stands alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from routers.base import Router, RouterError
from routers.data import Row
from routers.kept import read_kept
from routers.llm import ASKED_AT_ONCE
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

    Every label goes to `log` as soon as it is there, as a labelled row: a run that was cut goes on
    where it was. Labels of another teacher there, or of this one with other categories, are left
    alone.

    Parameters
    ----------
    teacher : Router
        Asked several prompts at a time, and none twice.
    prompts : sequence of str
    log : Path
        JSON lines; need not exist.
    progress : Progress
        Told after every answer.

    Returns
    -------
    list of Row
        In the order of the prompts.
    dict of int to str
        Index of every prompt that the teacher could not label, and why.

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
    new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
    why: dict[str, str] = {}
    in_row = 0
    log.parent.mkdir(parents=True, exist_ok=True)
    pool = ThreadPoolExecutor(ASKED_AT_ONCE)
    try:
        with log.open("ab") as file:
            asked = {pool.submit(_label, teacher, prompt): prompt for prompt in new}
            for n_done, answer in enumerate(as_completed(asked), start=1):
                prompt = asked[answer]
                try:
                    known[prompt] = Row(prompt, answer.result(), source)
                    file.write(msgspec.json.encode(known[prompt]) + b"\n")
                    file.flush()
                    in_row = 0
                except RouterError as error:
                    why[prompt] = str(error)
                    in_row += 1
                if in_row == _FAILURES_IN_ROW:
                    raise _given_up(f"{in_row} prompts in a row", why[prompt], log)
                progress("labelling", n_done, len(new))
    finally:
        pool.shutdown(cancel_futures=True)
    failures = {index: why[prompt] for index, prompt in enumerate(prompts) if prompt in why}
    if len(prompts) - len(failures) < _LEAST_SHARE * len(prompts):
        last = [*failures.values()][-1]
        raise _given_up(f"{len(failures)} of {len(prompts)} prompts", last, log)
    return [known[prompt] for prompt in prompts if prompt in known], failures


def _label(teacher: Router, prompt: str) -> str:
    (probabilities,) = teacher.predict_proba([prompt])
    return teacher.categories_[int(probabilities.argmax())]


def _row(line: bytes) -> Row:
    return msgspec.json.decode(line, type=Row)


def _given_up(what: str, why: str, log: Path) -> RouterError:
    return RouterError(
        f"the teacher must label most prompts; of {what} it labelled none: {why}. "
        f"Mend it and run the command again: it goes on where it was, with the labels in {log}"
    )
