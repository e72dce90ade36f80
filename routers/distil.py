"""A slow router labels prompts, so that a small one can learn from it and then stands alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from routers.base import Router
from routers.data import Row
from routers.progress import Progress, silent

OpenTeacher = Callable[[str], AbstractContextManager[Router]]
"""Opens the router that ``--distil`` names; raises ValueError for a name it does not know."""


def distilled_rows(
    teacher: Router, prompts: Sequence[str], progress: Progress = silent
) -> list[Row]:
    """Label every prompt with the teacher's most probable category.

    Parameters
    ----------
    teacher : Router
        Asked once a prompt.
    prompts : sequence of str
    progress : Progress
        Told after every prompt.

    References
    ----------
    A router distilled into a small frozen one: StableMoE (arXiv 2204.08396).
    """
    rows = []
    for number, prompt in enumerate(prompts, start=1):
        (probabilities,) = teacher.predict_proba([prompt])
        category = teacher.categories_[int(probabilities.argmax())]
        rows.append(Row(prompt, category, source=f"labelled by {teacher.name}@{teacher.version}"))
        progress("labelling", number, len(prompts))
    return rows
