"""What every token of an encoder's vocabulary means on its own; a text is the mean of its tokens.

Static embeddings, as Model2Vec distils them from a sentence encoder: no transformer runs to answer.
"""

from __future__ import annotations

import hashlib
from math import sqrt
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from routers.arrays import AnyArray, read_arrays, write_arrays
from routers.base import FloatArray
from routers.encoder import TOKENIZER_FILE, SentenceEncoder, has_lower_words, n_ids, parse_tokenizer
from routers.progress import Progress, silent
from routers.skimming import skimmed, words_of

TOKENS_FILE = "tokens.npz"

_OF_CASCADE = Path("cheap", "static")
"""Where the artifact of a cascade has the token vectors of its encoder."""
_N_DIMS = 128
_LARGEST = 63
"""Of a number in a vector: seven bits are enough, and are stored in less space than eight."""


class TokenVectors:
    """Text -> mean of its tokens' vectors; safe to share between threads.

    Parameters
    ----------
    vectors : ndarray of int8, shape (n_tokens, n_dims)
        Of every token of the vocabulary.
    tokenizer : str
        Content of a ``tokenizer.json`` of the `tokenizers` library.
    source : str
        `SentenceEncoder.file_digest` of the encoder that was asked.

    Attributes
    ----------
    n_dims : int
        Length of a vector.
    n_params : int
        Numbers in all vectors.
    digest : str
        SHA-256 over everything that decides a text's vector.

    Raises
    ------
    ValueError
        The tokenizer is none, or has another vocabulary than the vectors.
    """

    def __init__(self, vectors: npt.NDArray[np.int8], tokenizer: str, source: str) -> None:
        self._vectors = vectors
        self._text = tokenizer
        self._source = source
        self._tokenizer = parse_tokenizer(tokenizer)
        self._has_words = has_lower_words(self._tokenizer)
        n_tokens = n_ids(self._tokenizer)
        if vectors.ndim != 2 or len(vectors) != n_tokens or vectors.dtype != np.int8:
            raise ValueError(
                f"{TOKENS_FILE} must hold {n_tokens} rows of int8, one for each token; "
                f"got {vectors.dtype} of shape {vectors.shape}"
            )
        self.n_dims = vectors.shape[1]
        self.n_params = vectors.size
        content = hashlib.sha256(tokenizer.encode())
        content.update(vectors.tobytes())
        self.digest = content.hexdigest()

    @classmethod
    def of(cls, encoder: SentenceEncoder, progress: Progress = silent) -> Self:
        """Ask an encoder what each of its tokens means, or read what was asked before.

        Parameters
        ----------
        encoder : SentenceEncoder
        progress : Progress
            Told after every token; the 30,000 of MiniLM take half a minute.
        """
        source = encoder.file_digest()
        if (encoder.folder / _OF_CASCADE / TOKENS_FILE).is_file():
            asked_before = cls.load(encoder.folder / _OF_CASCADE)
            if asked_before._source == source:
                return asked_before
        meant = encoder.encode_tokens(range(n_ids(encoder.tokenizer)), progress)
        vectors = _quantised(_principal(meant, _N_DIMS))
        tokenizer = (encoder.folder / TOKENIZER_FILE).read_text(encoding="utf-8")
        return cls(vectors, tokenizer, source)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; raises ValueError or OSError when the files are not that."""
        try:
            arrays = read_arrays(folder / TOKENS_FILE)
            texts = (arrays[name].tobytes().decode() for name in ("tokenizer", "source"))
            return cls(arrays["vectors"], *texts)
        except (KeyError, ValueError, BadZipFile) as error:
            raise ValueError(f"{folder / TOKENS_FILE} must hold token vectors: {error}") from error

    def save(self, folder: Path) -> None:
        """Write vectors and tokenizer into a folder, as ``tokens.npz``."""
        texts = {"tokenizer": self._text, "source": self._source}
        arrays = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items()}
        write_arrays(folder / TOKENS_FILE, {"vectors": self._vectors, **arrays})

    def embed(self, text: str) -> npt.NDArray[np.float32]:
        """Return the mean of the vectors of a text's tokens, each token once.

        Parameters
        ----------
        text : str
            Any string; what of it is read says `routers.skimming.skimmed`.

        Returns
        -------
        ndarray of float32, shape (n_dims,)
            Of length sqrt(n_dims); zeros for a text without tokens.
        """
        rows = self._vectors.take([*self._token_ids(text)], axis=0)
        # whole numbers: the same in any order
        summed = np.add.reduce(rows, axis=0, dtype=np.int32).astype(np.float32)
        summed *= sqrt(self.n_dims) / max(sqrt(summed @ summed), 1.0)
        return np.asarray(summed)

    def _token_ids(self, text: str) -> set[int]:
        """Return the tokens of what is read of a text.

        Most words of English are tokens: to look them up takes a fifth of the time that the
        tokenizer takes for the text, and gives the same. But the name of a special token is text
        here, and a control character ends a word.
        """
        read, unknown = skimmed(text), []
        if not (self._has_words and read.isascii()):
            return {*self._tokenizer.encode(read, add_special_tokens=False).ids}
        token_ids: set[int] = set()
        for word in words_of(read):
            token_id = self._tokenizer.token_to_id(word)
            if token_id is None:
                unknown.append(word)
            else:
                token_ids.add(token_id)
        if unknown:
            pieces = self._tokenizer.encode(" ".join(unknown), add_special_tokens=False)
            token_ids.update(pieces.ids)
        return token_ids


def _principal(vectors: FloatArray, n_dims: int) -> FloatArray:
    """Centre vectors and keep the dimensions in which they differ most."""
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    kept = axes[:, : -n_dims - 1 : -1]
    return np.asarray(centred @ (kept * np.sign(kept.sum(axis=0))))


def _quantised(vectors: AnyArray) -> npt.NDArray[np.int8]:
    """Scale every dimension to whole numbers up to `_LARGEST`."""
    largest = np.maximum(np.abs(vectors).max(axis=0), 1e-12)
    return np.asarray(np.round(vectors * (_LARGEST / largest)), dtype=np.int8)
