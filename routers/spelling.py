"""Words typed wrongly, read as what was meant: an encoder knows words, not their misspellings."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from routers.encoder import SentenceEncoder, has_lower_words
from routers.progress import Progress, silent

WORDS_FILE = "words.txt"

_WINDOW_CHARS = 1_000
"""Looked at at each end of a text."""
_WORD = re.compile(r"\b[A-Za-z]{5,24}\b")
_TEXTS_OF_A_WORD = 3
"""A word of so many training prompts is no misspelling."""


class Speller:
    """Puts words right in which two neighbouring letters are swapped, or one is doubled or single.

    Only words that neither an encoder's vocabulary nor the training prompts hold are looked at, and
    only these three slips: letters dropped or replaced make other words too often. Of several
    words that could be meant it takes the one that comes first in the vocabulary, which is sorted
    by how common words are. That is so of the lower-case vocabularies of BERT; with any other
    tokenizer texts stay as they are.

    Parameters
    ----------
    tokenizer : Tokenizer
        Its vocabulary says which words there are.
    words : iterable of str
        Further words, in lower case.

    Attributes
    ----------
    words : frozenset of str
    digest : str
        SHA-256 of the further words.

    References
    ----------
    Candidates by edits, ranked by frequency: Norvig, How to Write a Spelling Corrector (2007).
    """

    def __init__(self, tokenizer: Tokenizer, words: Iterable[str] = ()) -> None:
        self._id_of = tokenizer.token_to_id
        self._knows_words = has_lower_words(tokenizer)
        self.words = frozenset(words)
        self.digest = hashlib.sha256("\n".join(sorted(self.words)).encode()).hexdigest()

    @classmethod
    def of(
        cls, encoder: SentenceEncoder, texts: Sequence[str], progress: Progress = silent
    ) -> Self:
        """Take as words also what several texts hold, and what the encoder's artifact knew."""
        known = encoder.folder / WORDS_FILE
        words = cls.load(encoder.tokenizer, encoder.folder).words if known.is_file() else ()
        n_texts: Counter[str] = Counter()
        for number, text in enumerate(texts, start=1):
            n_texts.update({word.lower() for word in _WORD.findall(text)})
            progress("collecting words", number, len(texts))
        common = (word for word, n in n_texts.items() if n >= _TEXTS_OF_A_WORD)
        id_of = encoder.tokenizer.token_to_id
        return cls(encoder.tokenizer, {*words, *(word for word in common if id_of(word) is None)})

    @classmethod
    def load(cls, tokenizer: Tokenizer, folder: Path) -> Self:
        """Read the words that `save` wrote; raises OSError or ValueError without them."""
        return cls(tokenizer, (folder / WORDS_FILE).read_text(encoding="ascii").split())

    def save(self, folder: Path) -> None:
        """Write the further words into a folder, one a line."""
        lines = "".join(f"{word}\n" for word in sorted(self.words))
        (folder / WORDS_FILE).write_text(lines, encoding="ascii")

    def corrected(self, text: str) -> str:
        """Return a text with its words put right, in lower case where they were not.

        Of a text of more than 2,000 characters only the first and the last thousand are looked at,
        up to a space.
        """
        if not self._knows_words:
            return text
        if len(text) <= 2 * _WINDOW_CHARS:
            return self._put_right(text)
        start = max(text.rfind(" ", 0, _WINDOW_CHARS), 0)
        end = text.find(" ", len(text) - _WINDOW_CHARS)
        end = len(text) if end < 0 else end
        return f"{self._put_right(text[:start])}{text[start:end]}{self._put_right(text[end:])}"

    def _put_right(self, text: str) -> str:
        words = {*_WORD.findall(text)}
        meant = {word: right for word in words if (right := self._meant(word)) != word}
        return _WORD.sub(lambda found: meant.get(found[0], found[0]), text) if meant else text

    def _meant(self, written: str) -> str:
        word = written.lower()
        if word in self.words or self._id_of(word) is not None:
            return written
        ids = {id_: slip for slip in _undone(word) if (id_ := self._id_of(slip)) is not None}
        return ids[min(ids)] if ids else written


def _undone(word: str) -> Iterator[str]:
    """Yield the words that one slip makes this one; the first letter is taken to be right."""
    for at in range(1, len(word)):
        before, here, after = word[:at], word[at], word[at + 1 :]
        if after:
            yield f"{before}{after[0]}{here}{after[1:]}"
        if before[-1] == here:
            yield before + after
        yield before + before[-1] + here + after
