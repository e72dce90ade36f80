"""What is remembered of requests: for a while, and while what it was made with stays."""

from __future__ import annotations

from gateway.recent import KEPT_S, MOST, Recent


def test_what_was_put_is_found_for_a_while() -> None:
    now_s = [100.0]
    recent: Recent[str] = Recent(lambda: now_s[0])
    recent.put("composition", 1, "plan")
    assert recent.get("composition", 1) == "plan"
    assert recent.get("composition", 2) is None
    now_s[0] += KEPT_S
    assert recent.get("composition", 1) is None


def test_another_composition_starts_with_nothing() -> None:
    first, second = object(), object()
    recent: Recent[str] = Recent()
    recent.put(first, 1, "plan")
    assert recent.get(second, 1) is None
    recent.put(second, 2, "other")
    assert recent.get(second, 1) is None
    assert recent.get(first, 1) is None


def test_the_oldest_give_way() -> None:
    recent: Recent[int] = Recent()
    for number in range(MOST + 1):
        recent.put(None, number, number)
    assert recent.get(None, 0) is None
    assert [recent.get(None, number) for number in (1, MOST)] == [1, MOST]
