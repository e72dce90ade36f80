from __future__ import annotations

from pathlib import Path

from routers.artifact import load_router, save_router
from routers.default_data.written import asked_rows
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


def test_a_category_of_few_prompts_is_found() -> None:
    topics = {"finance": 20, "law": 20, "medical": 4}
    rows = {topic: [r.prompt for r in asked_rows() if r.category == topic] for topic in topics}
    texts = [prompt for topic, n in topics.items() for prompt in rows[topic][:n]]
    labels = [topic for topic, n in topics.items() for _ in range(n)]
    router = KnnRouter(shipped_encoder(), "toy").fit(texts, labels)
    answers = router.predict_proba(rows["medical"][20:60]).argmax(axis=1)
    assert (answers == router.categories_.index("medical")).mean() > 0.8


def test_an_artifact_of_an_earlier_version_counts_every_neighbour_alike(tmp_path: Path) -> None:
    router = KnnRouter(shipped_encoder(), "toy").fit(
        ["red", "pink", "a green apple"], ["x", "x", "y"]
    )
    text = "green"
    now = router.predict_proba([text])
    head = dict(router.head_)
    del head["vote"]
    router._set_head(head, router.categories_)
    before = router.predict_proba([text])
    save_router(router, tmp_path / "r", {})
    assert load_router(tmp_path / "r").predict_proba([text]).tobytes() == before.tobytes()
    assert before.tobytes() != now.tobytes()
