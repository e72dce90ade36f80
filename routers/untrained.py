"""A router type and an encoder by name -> a router that is ready to learn."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from routers.artifact import DEFAULT_FOLDER
from routers.bag import BagRouter
from routers.card import NAME_PATTERN
from routers.cascade import CascadeRouter
from routers.encoder import ENCODER_FILE, RememberingEncoder, SentenceEncoder
from routers.export import BASE_ENCODER, export_encoder, load_sentence_transformer
from routers.finetuned import FinetunedRouter, Recipe
from routers.knn import KnnRouter
from routers.language_gate import LanguageGate
from routers.linear import LinearRouter
from routers.mean import MeanRouter
from routers.registry import StoredRouter
from routers.static import StaticRouter

TYPES = ("linear", "knn", "finetuned", "bag", "static", "cascade")
_MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What router is wanted.

    Attributes
    ----------
    type : str
        One of `TYPES`.
    name : str
        See `routers.base.Router`.
    encoder : str or None
        None is the encoder that ships, or for ``finetuned`` what that was made from; a folder with
        ``encoder.onnx``, a router artifact for example, is used as it is and not tuned further; any
        other folder or Hugging Face name is exported from sentence-transformers, and fine-tuned by
        ``finetuned`` and ``cascade``. ``bag`` has none.
    max_tokens : int or None
        Most tokens read of one prompt; None is 64: reading 256 is four times slower, and what a
        prompt is about shows at its ends.
    foreign_category : str or None
        Category of all prompts that are not in English; None routes them like the others.
    """

    type: str = "linear"
    name: str = "custom"
    encoder: str | None = None
    max_tokens: int | None = None
    foreign_category: str | None = None

    @property
    def is_slow(self) -> bool:
        """Whether learning takes so long that it should not be done once a fold."""
        tunes_encoder = self.type == "finetuned" and not _is_exported(self.encoder)
        return self.type == "cascade" or tunes_encoder

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME_PATTERN, self.name):
            raise ValueError(f"a router's name must match {NAME_PATTERN}; got {self.name!r}")


def untrained_router(plan: Plan, seed: int, scratch: Path) -> StoredRouter:
    """Make the router that a plan describes.

    Parameters
    ----------
    plan : Plan
    seed : int
        For what learns by chance.
    scratch : Path
        An empty folder for encoders made on the way; must outlive the router until it is saved.
    """
    router = _of_type(plan, seed, scratch)
    return LanguageGate(router, plan.foreign_category) if plan.foreign_category else router


def _of_type(plan: Plan, seed: int, scratch: Path) -> StoredRouter:
    if plan.type == "bag":
        return BagRouter(plan.name)
    if plan.type == "finetuned":
        return _finetuned(plan, seed, scratch)
    if plan.type == "cascade":
        kept = replace(plan, encoder=plan.encoder or str(DEFAULT_FOLDER))
        strong = _finetuned(kept, seed, scratch)
        words = StaticRouter(lambda: strong.encoder, plan.name)
        cheap = MeanRouter(BagRouter(plan.name), words, plan.name)
        return CascadeRouter(cheap, strong, plan.name)
    encoder = _open_encoder(plan, scratch)
    if plan.type == "static":
        return StaticRouter(lambda: encoder, plan.name)
    if plan.type == "knn":
        return KnnRouter(encoder, plan.name)
    return LinearRouter(encoder, plan.name)


def _finetuned(plan: Plan, seed: int, scratch: Path) -> FinetunedRouter:
    if _is_exported(plan.encoder):
        return FinetunedRouter(_open_encoder(plan, scratch), plan.name)
    base = plan.encoder or BASE_ENCODER
    encoder = _exported(base, plan.max_tokens, scratch / "base")
    (scratch / "tuned").mkdir()
    return FinetunedRouter(encoder, plan.name, Recipe(base, scratch / "tuned", seed))


def _open_encoder(plan: Plan, scratch: Path) -> SentenceEncoder:
    if plan.encoder is None:
        return RememberingEncoder(DEFAULT_FOLDER, plan.max_tokens or _MAX_TOKENS)
    if _is_exported(plan.encoder):
        return RememberingEncoder(Path(plan.encoder), plan.max_tokens or _MAX_TOKENS)
    return _exported(plan.encoder, plan.max_tokens, scratch / "base")


def _is_exported(encoder: str | None) -> bool:
    return encoder is not None and (Path(encoder) / ENCODER_FILE).is_file()


def _exported(name: str, max_tokens: int | None, folder: Path) -> SentenceEncoder:
    folder.mkdir()
    export_encoder(load_sentence_transformer(name), folder)
    return RememberingEncoder(folder, max_tokens or _MAX_TOKENS)
