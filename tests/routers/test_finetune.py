"""Fine-tuning for real, on few prompts; needs torch (make test-finetune)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

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


SMALL = {"vocab_size": 200, "max_position_embeddings": 512}


def tiny_bert(transformers: Any) -> Any:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return transformers.BertModel(transformers.BertConfig(**SMALL, hidden_size=32, **sizes))


def tiny_distilbert(transformers: Any) -> Any:
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    return transformers.DistilBertModel(transformers.DistilBertConfig(**SMALL, **sizes))


def write_tiny(model: Any, pooling: str, folder: Path) -> Path:
    """Write a transformer with random weights as a sentence-transformers folder."""
    transformers = pytest.importorskip("transformers")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    prompts = " ".join(row.prompt.lower() for row in toy_rows())
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word.strip("?,.") for word in prompts.split()} | {"?", ",", "."})
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in special}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(
        folder / "transformer"
    )
    model.save_pretrained(folder / "transformer")
    whole = sentence_transformers.SentenceTransformer(str(folder / "transformer"), device="cpu")
    whole[1].pooling_mode = pooling
    whole.save(str(folder / "whole"))
    return folder / "whole"


@pytest.mark.parametrize(
    ("make", "pooling"), [(tiny_distilbert, "mean"), (tiny_bert, "cls")], ids=["distilbert", "cls"]
)
def test_other_encoders_are_tuned_and_served_as_they_pool(
    make: Any, pooling: str, tmp_path: Path
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    base = write_tiny(make(pytest.importorskip("transformers")), pooling, tmp_path)
    (tmp_path / "scratch").mkdir()
    plan = Plan("finetuned", "toy", str(base), max_tokens=16)
    router = untrained_router(plan, 0, tmp_path / "scratch")
    texts = [row.prompt for row in toy_rows()[1::9]]
    exact = sentence_transformers.SentenceTransformer(str(base), device="cpu").encode(
        texts, normalize_embeddings=True
    )
    served = router.encoder.encode(texts)  # type: ignore[attr-defined]
    assert (served * exact).sum(axis=1).min() > 0.95

    rows = toy_rows()[::9]
    version = router.version
    router.fit([row.prompt for row in rows], [row.category for row in rows])
    assert router.version != version
    save_router(router, tmp_path / "saved", {})
    answers = load_router(tmp_path / "saved").predict_proba(texts)
    assert answers.tobytes() == router.predict_proba(texts).tobytes()


def test_an_encoder_that_pools_otherwise_is_named(tmp_path: Path) -> None:
    base = write_tiny(tiny_bert(pytest.importorskip("transformers")), "max", tmp_path)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(ValueError, match=r"its pooling must be one of mean, cls; got max\."):
        untrained_router(Plan("linear", encoder=str(base)), 0, tmp_path / "scratch")
