"""Fine-tuning for real, on few prompts; needs torch (make test-finetune)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from routers.artifact import load_router, save_router
from routers.untrained import Plan, untrained_router
from tests.prompts import toy_rows

pytestmark = [pytest.mark.finetune, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]

PLAN = Plan("finetuned", "toy", max_tokens=24)


def test_an_encoder_is_tuned_exported_and_served(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    rows = toy_rows()[::3]
    router = untrained_router(PLAN, 0, tmp_path)
    before = router.version
    told: list[tuple[str, int, int]] = []
    router.fit(
        [row.prompt for row in rows],
        [row.category for row in rows],
        lambda *call: told.append(call),
    )
    assert router.version != before
    assert {stage for stage, _, _ in told} == {"fine-tuning", "embedding"}
    held_out = toy_rows()[1::3]
    probabilities = router.predict_proba([row.prompt for row in held_out])
    answered = np.array(router.categories_)[probabilities.argmax(axis=1)]
    assert (answered == [row.category for row in held_out]).mean() > 0.9

    save_router(router, tmp_path / "saved", {})
    loaded = load_router(tmp_path / "saved")
    texts = [row.prompt for row in held_out]
    assert loaded.predict_proba(texts).tobytes() == probabilities.tobytes()
    assert (tmp_path / "saved" / "encoder.onnx").stat().st_size < 25e6


def test_an_unknown_encoder_is_named(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    plan = Plan("finetuned", encoder=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="must be a sentence-transformers folder"):
        untrained_router(plan, 0, tmp_path)
