"""How long one classification takes a processor core.

Processor time, not the clock's: it is the same while other programs want the core too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import cycle, islice

from routers.base import Router

LENGTHS = (20, 100, 500)
"""Lengths of the texts measured, in words, each of which is about one token of English."""

_MOST_PROMPTS = 100


def latency_ms(router: Router, prompts: Sequence[str]) -> dict[str, float]:
    """Return the median milliseconds of one text at each of `LENGTHS`, one text at a time.

    Parameters
    ----------
    prompts : sequence of str
        What is asked, as a cascade answers some texts faster than others; up to 100 of them, each
        cut or repeated to the length.
    """
    chosen = prompts[:: -(-len(prompts) // _MOST_PROMPTS)]
    return {str(n_words): _median_ms(router, chosen, n_words) for n_words in LENGTHS}


def _median_ms(router: Router, prompts: Sequence[str], n_words: int) -> float:
    router.predict_proba([""])
    times_ms = []
    for prompt in prompts:
        text = " ".join(islice(cycle(prompt.split()), n_words))
        start = time.process_time()
        router.predict_proba([text])
        times_ms.append(1e3 * (time.process_time() - start))
    return round(statistics.median(times_ms), 3)
