"""How long one classification takes a processor core.

Processor time, not the clock's: it is the same while other programs want the core too.
"""

from __future__ import annotations

import statistics
import time
from itertools import cycle, islice

from routers.base import Router

LENGTHS = (20, 100, 500)
"""Lengths of the texts measured, in words, each of which is one token of an English vocabulary."""

_RUNS = 50
_SENTENCE = "please tell me what the old man said about the house near the river and why he left"


def latency_ms(router: Router) -> dict[str, float]:
    """Return the median milliseconds of one text at each of `LENGTHS`, one text at a time."""
    return {str(n_words): _median_ms(router, n_words) for n_words in LENGTHS}


def _median_ms(router: Router, n_words: int) -> float:
    text = " ".join(islice(cycle(_SENTENCE.split()), n_words))
    router.predict_proba([text])
    times_ms = []
    for _ in range(_RUNS):
        start = time.process_time()
        router.predict_proba([text])
        times_ms.append(1e3 * (time.process_time() - start))
    return round(statistics.median(times_ms), 3)
