"""How long one classification takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice

from routers.base import Router

LENGTHS = (20, 100, 500)
"""Lengths of the texts measured, in words, each of which is about one token of English."""

_MOST_PROMPTS = 100


def latency_ms(
    router: Router, prompts: Sequence[str], clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Return the median milliseconds of one text at each of `LENGTHS`, one text at a time.

    Parameters
    ----------
    prompts : sequence of str
        What is asked, as a cascade answers some texts faster than others; up to 100 of them, each
        cut or repeated to the length.
    clock : callable
        Gives seconds. Processor time is the same while other programs want the core too; what
        another process does takes `time.perf_counter`.
    """
    chosen = prompts[:: -(-len(prompts) // _MOST_PROMPTS)]
    return {str(n_words): _median_ms(router, chosen, n_words, clock) for n_words in LENGTHS}


def _median_ms(
    router: Router, prompts: Sequence[str], n_words: int, clock: Callable[[], float]
) -> float:
    router.predict_proba([""])
    times_ms = []
    for prompt in prompts:
        text = " ".join(islice(cycle(prompt.split()), n_words))
        start = clock()
        router.predict_proba([text])
        times_ms.append(1e3 * (clock() - start))
    return round(statistics.median(times_ms), 3)
