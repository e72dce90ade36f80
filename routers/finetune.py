"""Fine-tunes a sentence encoder and a linear head together; needs the ``finetune`` extra.

Cross-entropy with smoothed labels and a supervised contrastive term (arXiv 2004.11362); word
vectors stay as they are, lower layers learn more slowly (arXiv 1801.06146), prompts are changed
as people would type them. The weights kept are averages over steps (arXiv 1803.05407), moved part
of the way back to where they came from (arXiv 2109.01903): both help on prompts of other sources.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np

from routers.arrays import IntArray
from routers.augment import augment
from routers.encoder import SentenceEncoder
from routers.export import export_encoder, load_sentence_transformer
from routers.extras import import_extra
from routers.finetuned import Recipe
from routers.progress import Progress

_BATCH = 48
_MOST_TOKENS = 64
"""Of each text; training reads less than the router may, which costs a third of the time less."""
_BATCHES_PER_POOL = 50
"""Batches whose texts are sorted by length together, so that little is padded."""
_ROWS_SEEN = 60_000
"""Fewer rows than this are gone through several times, up to `_MAX_EPOCHS`."""
_MAX_EPOCHS = 20
_PATIENCE = 3
"""Epochs without a better validation loss after which training stops."""
_VALIDATION_SHARE = 0.05

_LEARNING_RATE = 5e-5
_HEAD_RATE = 20.0
"""Learning rates relative to `_LEARNING_RATE`: of the head, and of each layer to the one above."""
_LAYER_DECAY = 0.75
_WEIGHT_DECAY = 0.05
_WARM_UP_SHARE = 1 / 15
_MIN_RATE = 0.02
_AVERAGED_SHARE = 0.4
"""Last share of an epoch's steps whose weights are averaged."""

_FINETUNED_SHARE = 0.75
"""Of the way from the base encoder's weights to the fine-tuned ones."""

_LOGIT_SCALE = 10.0
_LABEL_SMOOTHING = 0.05
_CONTRASTIVE_WEIGHT = 0.15
_CONTRASTIVE_TEMPERATURE = 0.1
_AUGMENTED_SHARE = 0.55
_DROPPED_TOKENS = 0.08

_Batch = list[tuple[tuple[int, ...], int]]
"""Token ids and label of some texts."""


def finetune(
    reader: SentenceEncoder,
    recipe: Recipe,
    texts: Sequence[str],
    labels: IntArray,
    progress: Progress,
) -> None:
    """Train an encoder with a head, and write the encoder into ``recipe.folder``.

    The head is given up: one learned afterwards on the quantised encoder is better.

    Parameters
    ----------
    reader : SentenceEncoder
        Says which tokens of a text are read.
    recipe : Recipe
    texts : sequence of str, length n_texts
    labels : ndarray of int, shape (n_texts,)
        Indices of categories, none left out.
    progress : Progress
        Told after every batch.
    """
    torch = import_extra("torch", "finetune")
    model = load_sentence_transformer(recipe.base)
    transformer = model[0].auto_model
    base = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        classifier = _Classifier(transformer, labels)
        data = _Data(reader.reading(_MOST_TOKENS), texts, labels, recipe.seed)
        classifier.load(_Training(classifier, data, progress).best_weights())
    tuned = transformer.state_dict()
    transformer.load_state_dict(
        {name: torch.lerp(base[name], tuned[name], _FINETUNED_SHARE) for name in base}
    )
    export_encoder(model, recipe.folder)


class _Data:
    """The texts as batches of tokens: shuffled, augmented, a part kept for validation."""

    def __init__(
        self, reader: SentenceEncoder, texts: Sequence[str], labels: IntArray, seed: int
    ) -> None:
        self._reader = reader
        self._texts = texts
        self._labels = labels
        self._seed = seed
        order = np.random.default_rng(seed).permutation(len(texts))
        n_validation = max(1, int(_VALIDATION_SHARE * len(texts)))
        self._validation, self._training = order[:n_validation], order[n_validation:]
        self.n_batches = math.ceil(len(self._training) / _BATCH)
        self.n_epochs = int(np.clip(round(_ROWS_SEEN / len(texts)), 1, _MAX_EPOCHS))

    def epoch(self, number: int) -> Iterator[_Batch]:
        """Yield the batches of an epoch, of texts of like length."""
        rng = Random(f"{self._seed}/{number}")  # noqa: S311 (no secret)
        items = [(self._changed(index, rng), int(self._labels[index])) for index in self._training]
        rng.shuffle(items)
        batches = []
        pool = _BATCH * _BATCHES_PER_POOL
        for start in range(0, len(items), pool):
            batches.extend(_cut(sorted(items[start : start + pool], key=lambda item: len(item[0]))))
        rng.shuffle(batches)
        yield from batches

    def validation(self) -> list[_Batch]:
        """Return the texts kept for validation, as they are."""
        read = self._reader.read
        return _cut(
            [(read(self._texts[i]).token_ids, int(self._labels[i])) for i in self._validation]
        )

    def _changed(self, index: int, rng: Random) -> tuple[int, ...]:
        token_ids = self._reader.read(augment(self._texts[index], rng, _AUGMENTED_SHARE)).token_ids
        if rng.random() < 0.5:
            return token_ids
        first, *inner, last = token_ids
        return (first, *(i for i in inner if rng.random() >= _DROPPED_TOKENS), last)


class _Classifier:
    """Transformer, mean pooling, unit length, linear head."""

    def __init__(self, transformer: Any, labels: IntArray) -> None:  # noqa: ANN401
        self._torch = import_extra("torch", "finetune")
        self._transformer = transformer
        counts = np.bincount(labels)
        self._head = self._torch.nn.Linear(transformer.config.hidden_size, len(counts))
        # without instructions for it, bfloat16 takes many times as long as float32
        self._in_bfloat16 = bool(self._torch.cpu.get_capabilities().get("avx512_bf16"))
        self._torch.nn.init.zeros_(self._head.weight)
        self._torch.nn.init.zeros_(self._head.bias)
        self.modules = self._torch.nn.ModuleList([transformer, self._head])
        transformer.get_input_embeddings().weight.requires_grad_(False)
        weights = 1.0 / np.sqrt(counts)
        self._weights = self._torch.tensor(weights / weights.mean(), dtype=self._torch.float32)

    def loss(self, batch: _Batch) -> Any:  # noqa: ANN401
        """Return the training loss of a batch."""
        functional = self._torch.nn.functional
        labels = self._torch.tensor([label for _, label in batch])
        embeddings = self._embed([token_ids for token_ids, _ in batch])
        classified = functional.cross_entropy(
            _LOGIT_SCALE * self._head(embeddings),
            labels,
            weight=self._weights,
            label_smoothing=_LABEL_SMOOTHING,
        )
        return classified + _CONTRASTIVE_WEIGHT * self._contrast(embeddings, labels)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trainable parameters with learning rates that fall from top to bottom."""
        layers = list(self._transformer.encoder.layer)
        groups = [{"params": list(self._head.parameters()), "lr": _HEAD_RATE * _LEARNING_RATE}]
        for depth, layer in enumerate(reversed(layers)):
            rate = _LEARNING_RATE * _LAYER_DECAY**depth
            groups.append({"params": list(layer.parameters()), "lr": rate})
        rest = [p for p in self._transformer.embeddings.parameters() if p.requires_grad]
        groups.append({"params": rest, "lr": _LEARNING_RATE * _LAYER_DECAY ** len(layers)})
        return groups

    def weights(self) -> dict[str, Any]:
        """Return the weights as they are now, not copied."""
        weights: dict[str, Any] = self.modules.state_dict()
        return weights

    def load(self, weights: dict[str, Any]) -> None:
        """Take over weights."""
        self.modules.load_state_dict(weights)

    def _embed(self, token_ids: list[tuple[int, ...]]) -> Any:  # noqa: ANN401
        torch = self._torch
        rows = [torch.tensor(row) for row in token_ids]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._in_bfloat16):
            states = self._transformer(input_ids=padded, attention_mask=mask).last_hidden_state
        summed = (states.float() * mask[:, :, None]).sum(dim=1)
        return torch.nn.functional.normalize(summed / lengths[:, None], dim=1)

    def _contrast(self, embeddings: Any, labels: Any) -> Any:  # noqa: ANN401
        torch = self._torch
        itself = torch.eye(len(labels), dtype=torch.bool)
        alike = (labels[:, None] == labels) & ~itself
        similarity = embeddings @ embeddings.T / _CONTRASTIVE_TEMPERATURE
        similarity = similarity.masked_fill(itself, -1e9)
        log_share = similarity - similarity.logsumexp(dim=1, keepdim=True)
        n_alike = alike.sum(dim=1)
        per_text = -(log_share * alike).sum(dim=1) / n_alike.clamp(min=1)
        return per_text.sum() / (n_alike > 0).sum().clamp(min=1)


class _Training:
    """The optimisation, epoch by epoch."""

    def __init__(self, classifier: _Classifier, data: _Data, progress: Progress) -> None:
        self._torch = import_extra("torch", "finetune")
        self._classifier = classifier
        self._data = data
        self._progress = progress
        self._n_steps = data.n_epochs * data.n_batches
        self._optimizer = self._torch.optim.AdamW(
            classifier.parameter_groups(), betas=(0.9, 0.98), weight_decay=_WEIGHT_DECAY
        )
        self._schedule = self._torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: _rate(step, self._n_steps)
        )

    def best_weights(self) -> dict[str, Any]:
        """Train until the validation loss stops falling; return the weights of the best epoch."""
        best_loss, best, n_worse = math.inf, {}, 0
        for epoch in range(self._data.n_epochs):
            weights = self._run(epoch)
            loss = self._validation_loss(weights)
            n_worse = 0 if loss < best_loss else n_worse + 1
            if loss < best_loss:
                best_loss, best = loss, weights
            if n_worse == _PATIENCE:
                break
        return best

    def _run(self, epoch: int) -> dict[str, Any]:
        """Train for an epoch; return the mean of the weights over its last steps."""
        swa = import_extra("torch.optim.swa_utils", "finetune")
        modules = self._classifier.modules
        average = swa.AveragedModel(modules)
        modules.train()
        for number, batch in enumerate(self._data.epoch(epoch), start=1):
            self._optimizer.zero_grad()
            self._classifier.loss(batch).backward()
            self._torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
            self._optimizer.step()
            self._schedule.step()
            if number > (1.0 - _AVERAGED_SHARE) * self._data.n_batches:
                average.update_parameters(modules)
            self._progress("fine-tuning", epoch * self._data.n_batches + number, self._n_steps)
        weights: dict[str, Any] = average.module.state_dict()
        return weights

    def _validation_loss(self, weights: dict[str, Any]) -> float:
        current = {name: tensor.clone() for name, tensor in self._classifier.weights().items()}
        self._classifier.load(weights)
        self._classifier.modules.eval()
        with self._torch.no_grad():
            losses = [float(self._classifier.loss(batch)) for batch in self._data.validation()]
        self._classifier.load(current)
        return float(np.mean(losses))


def _rate(step: int, n_steps: int) -> float:
    """Learning rate of a step relative to the highest: warm-up, then half a cosine."""
    warm_up = min(1.0, (step + 1) / (_WARM_UP_SHARE * n_steps))
    return warm_up * max(_MIN_RATE, 0.5 * (1.0 + math.cos(math.pi * step / n_steps)))


def _cut(items: list[tuple[tuple[int, ...], int]]) -> list[_Batch]:
    return [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
