from __future__ import annotations

from routers.knn import KnnRouter
from tests.prompts import shipped_encoder, toy_rows


def test_near_prompts_are_sure_and_far_ones_are_not() -> None:
    router = KnnRouter(shipped_encoder(), "toy")
    router.fit([row.prompt for row in toy_rows()], [row.category for row in toy_rows()])
    near, far = router.predict_proba(["How long do I roast a whole duck?", "∮ qzx ⌘ 9/9"])
    assert router.categories_[near.argmax()] == "cooking"
    assert near.max() > 0.9
    assert far.max() < 0.6


def test_fewer_prompts_than_neighbours_are_enough() -> None:
    router = KnnRouter(shipped_encoder(), "toy").fit(["red", "green apple"], ["x", "y"])
    (row,) = router.predict_proba(["green apple"])
    assert router.categories_[row.argmax()] == "y"
