"""A sentence encoder that serves with onnxruntime, tokenizers and numpy alone.

Mean pooling and unit length as in Sentence-BERT (arXiv 1908.10084). One text goes through the
model per run: dynamic int8 quantisation scales a whole tensor, so a batch mate would change the
result.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

from routers.base import FloatArray
from routers.progress import Progress, silent

ENCODER_FILE = "encoder.onnx"
TOKENIZER_FILE = "tokenizer.json"

_CHARS_PER_TOKEN = 16
"""Characters looked at for each token that may be read: bounds the work on a huge text."""

_MOST_REMEMBERED = 10_000
"""Texts whose vectors are kept: 30 MB."""

_SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""On the CPU the fused operator takes a fifth longer per text than what it replaces."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What of a text the encoder reads.

    Attributes
    ----------
    token_ids : tuple of int
        What the model is given, special tokens included.
    n_chars : int
        Length of the text.
    head_chars, tail_chars : int
        Characters read from the start and from the end of the text; when the whole text is read
        ``head_chars`` is ``n_chars`` and ``tail_chars`` is 0.
    """

    token_ids: tuple[int, ...]
    n_chars: int
    head_chars: int
    tail_chars: int

    @property
    def complete(self) -> bool:
        """Whether the whole text was read."""
        return self.head_chars == self.n_chars


class SentenceEncoder:
    """Text -> vector of unit length; safe to share between threads.

    Parameters
    ----------
    folder : Path
        Holds ``encoder.onnx``, a graph with one input ``input_ids`` (1, n_tokens) int64 and one
        output (1, n_tokens, n_dims) float32, its number of parameters as metadata ``n_params``;
        and ``tokenizer.json`` of the `tokenizers` library. `routers.export` writes both.
    max_tokens : int
        Most tokens read of one text, special tokens included. Of a longer text the first two
        thirds and the last third of them are read.

    Attributes
    ----------
    folder : Path
    tokenizer : Tokenizer
    n_dims : int
        Length of a vector.
    active_params_b : float
        10^9 parameters of the model.
    digest : str
        SHA-256 over everything that decides the vectors.

    Raises
    ------
    ValueError
        A file is not what it must be, or `max_tokens` is too small.
    OSError
        A file cannot be opened.
    """

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.folder = folder
        self._paths = (folder / ENCODER_FILE, folder / TOKENIZER_FILE)
        self.digest = _digest_of(folder, str(max_tokens))
        self._session = _load_session(self._paths[0])
        self.tokenizer = _load_tokenizer(self._paths[1])
        self.n_dims = int(self._session.get_outputs()[0].shape[-1])
        self.active_params_b = _n_params(self._session, self._paths[0]) / 1e9
        self._prefix, self._suffix = _special_ids(self.tokenizer)
        self._room = max_tokens - len(self._prefix) - len(self._suffix)
        if self._room < 4:
            raise ValueError(
                f"max_tokens must be {max_tokens - self._room + 4} or more, room for both ends of "
                f"a text beside the special tokens; got {max_tokens}"
            )

    def save(self, folder: Path) -> None:
        """Copy the encoder's two files into a folder."""
        for path in self._paths:
            shutil.copyfile(path, folder / path.name)

    def file_digest(self) -> str:
        """Return a SHA-256 over the model and its tokenizer, however much it reads."""
        return _digest_of(self.folder, "")

    def reading(self, max_tokens: int) -> SentenceEncoder:
        """Return the same encoder, reading at most so many tokens of a text."""
        return SentenceEncoder(self.folder, min(max_tokens, self.max_tokens))

    def read(self, text: str) -> Reading:
        """Tell what of a text is given to the model."""
        # Lone surrogates are legal in a str but not in UTF-8; "replace" keeps the length.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        window_chars = self._room * _CHARS_PER_TOKEN
        if len(clean) > 2 * window_chars:
            start = self._tokenize(clean[:window_chars])
            end = self._tokenize(clean[-window_chars:])
            return self._read_ends(start, end, window_chars, len(clean))
        whole = self._tokenize(clean)
        if len(whole) > self._room:
            return self._read_ends(whole, whole, len(clean), len(clean))
        return Reading(self._framed(whole.ids), len(clean), len(clean), 0)

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> FloatArray:
        """Return the vector of every text; several texts are shared out over the cores.

        Parameters
        ----------
        texts : sequence of str, length n_texts
            Any strings: empty, huge and control characters included.
        progress : Progress
            Told after every text.

        Returns
        -------
        ndarray of float64, shape (n_texts, n_dims)
            Rows have unit length.
        """
        vectors = np.empty((len(texts), self.n_dims))
        if len(texts) == 1:
            vectors[0] = self._encode_one(texts[0])
            return vectors
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for index, vector in enumerate(pool.map(self._encode_one, texts)):
                vectors[index] = vector
                progress("embedding", index + 1, len(texts))
        return vectors

    def encode_tokens(self, token_ids: Sequence[int], progress: Progress = silent) -> FloatArray:
        """Return the vector of every token as a text of its own.

        Parameters
        ----------
        token_ids : sequence of int, length n_ids
            Each in [0, `n_ids`) of the tokenizer.
        progress : Progress
            Told after every token.

        Returns
        -------
        ndarray of float64, shape (n_ids, n_dims)
            Rows have unit length.
        """
        vectors = np.empty((len(token_ids), self.n_dims))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            alone = (self._framed([token_id]) for token_id in token_ids)
            for index, vector in enumerate(pool.map(self._run, alone)):
                vectors[index] = vector
                progress("asking what words mean", index + 1, len(token_ids))
        return vectors

    def _encode_one(self, text: str) -> FloatArray:
        return self._run(self.read(text).token_ids)

    def _run(self, token_ids: tuple[int, ...]) -> FloatArray:
        feed = {"input_ids": np.array([token_ids], dtype=np.int64)}
        (token_embeddings,) = self._session.run(None, feed)
        mean = token_embeddings[0].mean(axis=0, dtype=np.float64)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))

    def _tokenize(self, text: str) -> Encoding:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _read_ends(self, start: Encoding, end: Encoding, end_chars: int, n_chars: int) -> Reading:
        """Read the first tokens of one encoding and the last of another, `end_chars` long."""
        n_tail = self._room // 3
        n_head = self._room - n_tail
        head_chars = start.offsets[:n_head][-1][1] if start.ids else 0
        tail_chars = end_chars - end.offsets[-n_tail:][0][0] if end.ids else 0
        token_ids = self._framed(start.ids[:n_head] + end.ids[-n_tail:])
        return Reading(token_ids, n_chars, head_chars, tail_chars)

    def _framed(self, token_ids: list[int]) -> tuple[int, ...]:
        return (*self._prefix, *token_ids, *self._suffix)


class RememberingEncoder(SentenceEncoder):
    """For training, which comes back to the same texts: of many texts none is embedded twice."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        super().__init__(folder, max_tokens)
        self._known: dict[str, FloatArray] = {}

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> FloatArray:
        """See `SentenceEncoder.encode`."""
        if len(texts) == 1 or len(texts) > _MOST_REMEMBERED:
            return super().encode(texts, progress)
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) + len(new) > _MOST_REMEMBERED:
            self._known, new = {}, list(dict.fromkeys(texts))
        self._known.update(zip(new, super().encode(new, progress), strict=True))
        return np.array([self._known[text] for text in texts]).reshape(-1, self.n_dims)


def n_ids(tokenizer: Tokenizer) -> int:
    """Return one more than the highest id of a token; ids may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def has_lower_words(tokenizer: Tokenizer) -> bool:
    """Tell whether a vocabulary is of words in lower case, and of pieces of words, as BERT's."""
    normalizer = tokenizer.normalizer
    lowers = normalizer is not None and normalizer.normalize_str("A") == "a"
    return lowers and type(tokenizer.model).__name__ == "WordPiece"


def _digest_of(folder: Path, settings: str) -> str:
    """Return a SHA-256 over what decides the vectors of an encoder."""
    content = hashlib.sha256(settings.encode())
    for name in (ENCODER_FILE, TOKENIZER_FILE):
        content.update((folder / name).read_bytes())
    return content.hexdigest()


def _load_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            path, options, ["CPUExecutionProvider"], disabled_optimizers=_SLOW_FUSIONS
        )
    except Exception as error:  # onnxruntime's errors share no other base
        raise ValueError(f"{path} must be an ONNX model; onnxruntime says: {error}") from error
    inputs = [node.name for node in session.get_inputs()]
    if inputs != ["input_ids"]:
        raise ValueError(f"{path} must have one input named input_ids; got {inputs}")
    return session


def _n_params(session: onnxruntime.InferenceSession, path: Path) -> int:
    n_params = session.get_modelmeta().custom_metadata_map.get("n_params", "")
    if not n_params.isdecimal():
        raise ValueError(f"{path} must have metadata n_params, a whole number; got {n_params!r}")
    return int(n_params)


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        return parse_tokenizer(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a tokenizer; {error}") from error


@lru_cache(maxsize=2)
def parse_tokenizer(text: str) -> Tokenizer:
    """Return the tokenizer that a ``tokenizer.json`` holds; it cuts and pads nothing.

    The same text gets the same object: it takes megabytes, and all parts of a router may use one.

    Raises
    ------
    ValueError
        It is none.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(f"tokenizers says: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_ids(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids that the tokenizer puts before and after every text."""
    framed = tokenizer.encode("a")
    is_special = [bool(bit) for bit in framed.special_tokens_mask]
    n_prefix = is_special.index(False)
    n_suffix = is_special[::-1].index(False)
    return framed.ids[:n_prefix], framed.ids[len(framed.ids) - n_suffix :]
