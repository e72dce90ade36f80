"""What a soak counts, and what it calls falling short; `make soak-short` runs one."""

from __future__ import annotations

from typing import Any

import pytest

from eval.failover.client import Seen
from eval.failover.report import soak_markdown
from eval.failover.soak import N_CLIENTS, Tally, falls_short, report_of
from eval.failover.wire import Orders

OURS, THEIRS = Orders("aaaa", {"faulty": "cut"}), Orders("bbbb", {"faulty": "ok"})


def seen(text: str, **fields: Any) -> Seen:
    whole = {"status": 200, "finish_reason": "stop", "done": True, "elapsed_s": 0.01}
    return Seen(stream=True, text=text, **{**whole, **fields})


@pytest.mark.parametrize(
    ("answer", "lost", "mixed_up"),
    [
        (seen(OURS.answer()), 0, 0),
        (seen(OURS.answer()[:-5]), 1, 0),
        (seen(OURS.answer(), finish_reason=None, done=False), 1, 0),
        (seen(OURS.answer(), error={"message": "no"}), 1, 0),
        (seen("", status=503), 1, 0),
        (seen(THEIRS.answer()), 0, 1),
        (seen(OURS.answer() + THEIRS.pieces()[0]), 0, 1),
    ],
)
def test_an_answer_is_whole_lost_or_mixed_up(answer: Seen, lost: int, mixed_up: int) -> None:
    tally = Tally()
    tally.add(OURS, answer)
    assert (len(tally.lost), len(tally.mixed_up)) == (lost, mixed_up)
    assert tally.faults == {"cut": 1}


def found(**changed: Any) -> dict[str, Any]:
    tally = Tally()
    for _ in range(3):
        tally.add(THEIRS, seen(THEIRS.answer()))
    worker = {"rss_mb": [100.0, 104.0], "growth": 0.04, "descriptors": [30, 30]}
    rates = {
        "minutes": 30.0,
        "capacity_per_s": 100.0,
        "rate_per_s": 80.0,
        "kills": 0,
        "longest_pause_s": 0.1,
    }
    return {**rates, **report_of(tally), "workers": [{**worker, **changed}]}


@pytest.mark.parametrize(
    ("changed", "short"),
    [
        ({}, []),
        ({"growth": 0.06}, ["a worker grew by 6.0% after the warm-up"]),
        ({"descriptors": [30, 30 + N_CLIENTS]}, []),
        ({"descriptors": [30, 60]}, ["open descriptors of a worker went from 30 to 60"]),
    ],
)
def test_growth_and_leaks_fall_short(changed: dict[str, Any], short: list[str]) -> None:
    assert falls_short(found(**changed), 0.05) == short


def test_a_lost_answer_falls_short() -> None:
    assert falls_short({**found(), "lost": 2}, 0.05) == ["2 answers lost"]


def test_the_table_of_a_soak_names_its_figures() -> None:
    table = soak_markdown(found())
    assert "| answers lost or cut | 0 |" in table
    assert "| memory of worker 1 after warm-up, at the end | 100.0 MB, 104.0 MB (+4.0%) |" in table
