"""The short form of ``make test-edits``; times on a busy machine say nothing, failures do."""

from __future__ import annotations

from tests.gateway.live.edits_under_load import run


def test_edits_under_load_fail_no_request_and_reach_every_replica() -> None:
    found = run(n_edits=6, seconds=3)
    assert found["failures"] == []
    assert (found["good"], found["broken"]) == (4, 2)
    assert found["requests"] > 30
