"""Which text of a conversation is classified.

A chat request carries far more than what the human asked: tool results, reminders and files that
an agent harness pasted into the user's turn, earlier turns, images. `read_request` picks the
human's request out of it, adds earlier turns where the request cannot be understood alone, and
states what it read. Pure functions of their argument; linear in the length of the messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from routers.harness import TOOL_RESULT, unwrap

MAX_CHARS = 8000
"""Characters of the request that are read; of a longer one, half from each end."""
EARLIER_TURN_CHARS = 1000
"""Characters read of an earlier turn, or of attached text, that the request leans on."""
ASSISTANT_TAIL_CHARS = 500
"""Characters read of the end of the assistant's answer when no user turn explains the request."""
MAX_EARLIER_TURNS = 4
"""Earlier user turns looked at for one that can be understood alone."""
MAX_LEANING_CHARS = 160
"""A request longer than this is taken to be understandable alone."""

_WORD_CUT_CHARS = 40  # a cut moves at most this far to fall between two words
_GAP = "\n…\n"
_SURROGATE = re.compile("[\ud800-\udfff]")

_TEXT_PARTS = frozenset(("", "text", "input_text", "output_text"))
_KIND_OF_PART = {
    "audio": "audio",
    "document": "file",
    "file": "file",
    "image": "image",
    "image_url": "image",
    "input_audio": "audio",
    "input_file": "file",
    "input_image": "image",
    "tool_result": TOOL_RESULT,
}
_KIND_OF_ROLE = {
    "developer": "system",
    "function": TOOL_RESULT,
    "system": "system",
    "tool": TOOL_RESULT,
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Han and kana: two characters a word
_WORD = re.compile(rf"[{_UNSPACED}]{{1,2}}|[^\W{_UNSPACED}]+(?:['\u2019][^\W{_UNSPACED}]+)*")
_ALWAYS_LEANING_WORDS = 2
_QUESTION_WORDS = 3
_FRAGMENT_WORDS = 6
_SENTENCE_WORDS = 8
_POINTING_WORDS = 5
_OPENERS = _words(
    "again also and but continue instead nah no nope not now ok okay sure then yeah yep yes "
    "aber adesso agora ahora et jetzt mais maintenant nun pero und "
    "а но теперь 然后 现在 那么"  # noqa: RUF001
)
"""Words that open a request which goes on from the turn before."""
_FRAGMENT_OPENERS = _words(
    "add any apply as change commit delete deploy elaborate fix for format give in keep lint make "
    "merge more move only please push refactor remove rename replace revert run shorten simplify "
    "summarise summarize test the translate try undo update use using with without"
)
"""Words that do so only when the request is a fragment."""
_QUESTIONS = _words("how really when where which why")
"""Words that do so only when hardly anything follows."""
_POINTERS = _words(
    "above again another else former he her hers him his instead it it's its latter other "
    "others previous previously same she that's their theirs them these they this those"
)
"""Words that point at something said before."""
_POINTING = re.compile(
    r"^(?:that|what about|how about)\b|\b(?:that|ones?)$"
    r"|\b(?:about|all|by|did|do|does|explain|for|from|in|is|like|of|on|to|was|with) that\b"
)
"""Phrases that do: ``that`` as a pronoun, not as in "a function that sorts"."""
_MATERIAL = re.compile(r"(?::| -|\n)\s*\S.{20}")
"""What a request brings along to work on: "Translate this: ..."."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a conversation, and what was not.

    Attributes
    ----------
    turns : tuple of int
        Indices of the messages that the text comes from, ascending.
    set_aside : tuple of str
        Kinds of content met on the way and not read, sorted: ``attachment``, ``audio``,
        ``command``, ``environment``, ``file``, ``history``, ``image``, ``instructions``,
        ``other``, ``reminder``, ``system``, ``tool_result``.
    chars_total : int
        Characters of text in all messages.
    chars_read : int
        Characters of the text that is classified.
    chars_left_out : int
        Characters left out of the turns that were read, for their length; 0 when none was.
    """

    turns: tuple[int, ...]
    set_aside: tuple[str, ...]
    chars_total: int
    chars_read: int
    chars_left_out: int


@dataclass(frozen=True, slots=True)
class RequestText:
    """The text a router classifies.

    Attributes
    ----------
    text : str
        The human's request, after the earlier turns it leans on; empty when the messages hold no
        text. Always encodable as UTF-8.
    read : Reading
        Where it comes from.
    """

    text: str
    read: Reading


@dataclass(frozen=True, slots=True)
class _Turn:
    """A user turn in which a human speaks; `kinds` also counts the newer turns without one."""

    index: int
    human: str
    attached: str
    kinds: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Piece:
    """The text that is read of one message."""

    index: int
    text: str
    chars_left_out: int


def read_request(messages: Sequence[Mapping[str, Any]]) -> RequestText:
    """Return the text of a conversation to classify.

    Parameters
    ----------
    messages : sequence of mappings
        Decoded OpenAI chat messages, oldest first. Content may be a string, a list of parts or
        None; parts and roles that are not known are passed over.

    Returns
    -------
    RequestText
        The newest user turn in which a human speaks. A request that cannot be understood alone
        ("now do it in Rust") comes after the user turns it leans on and, where none of them says
        more, after the end of the assistant's answer or the text attached to it. Where no human
        speaks, the newest text there is.
    """
    turns_back = _human_turns_newest_first(messages)
    newest = next(turns_back, None)
    if newest is None:
        return _request(messages, _newest_text(messages), frozenset())
    turns = [newest]
    has_context = newest.index > 0 or bool(newest.attached)
    leans = has_context and _leans(newest.human)
    if leans:
        turns += _until_one_stands_alone(turns_back)
        leans = _leans(turns[-1].human)
    pieces = [_ends(turn.index, turn.human, EARLIER_TURN_CHARS) for turn in reversed(turns[1:])]
    if leans:
        pieces += _last_resort(messages, newest)
    pieces.append(_ends(newest.index, newest.human, MAX_CHARS))
    return _request(messages, pieces, turns[-1].kinds)


def read_alone(prompt: str) -> str:
    """Return the text to classify of a prompt that is all of a request."""
    return read_request([{"role": "user", "content": prompt}]).text


def _human_turns_newest_first(messages: Sequence[Mapping[str, Any]]) -> Iterator[_Turn]:
    kinds: frozenset[str] = frozenset()
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].get("role") == "user":
            parts = list(_parts(messages[index]))
            unwrapped = unwrap(text for kind, text in parts if not kind)
            kinds |= unwrapped.kinds.union(kind for kind, _ in parts if kind)
            if unwrapped.human:
                yield _Turn(index, unwrapped.human, unwrapped.attached, kinds)


def _until_one_stands_alone(turns: Iterator[_Turn]) -> Iterator[_Turn]:
    for turn in islice(turns, MAX_EARLIER_TURNS):
        yield turn
        if not _leans(turn.human):
            return


def _last_resort(messages: Sequence[Mapping[str, Any]], newest: _Turn) -> list[_Piece]:
    """Return what explains a request when no user turn does: the answer before it, attachments."""
    for index in range(newest.index - 1, -1, -1):
        if messages[index].get("role") == "assistant" and (answer := _text(messages[index])):
            start = _word_start(answer, max(0, len(answer) - ASSISTANT_TAIL_CHARS))
            return [_Piece(index, answer[start:], start)]
    return [_ends(newest.index, newest.attached, EARLIER_TURN_CHARS)] if newest.attached else []


def _newest_text(messages: Sequence[Mapping[str, Any]]) -> list[_Piece]:
    """Return the newest text as it stands: a user's, else anyone's."""
    newest_first = range(len(messages) - 1, -1, -1)
    for index in sorted(newest_first, key=lambda i: messages[i].get("role") != "user"):
        if text := _text(messages[index]):
            return [_ends(index, text, MAX_CHARS)]
    return []


def _request(
    messages: Sequence[Mapping[str, Any]], pieces: Sequence[_Piece], kinds: frozenset[str]
) -> RequestText:
    text = _SURROGATE.sub("\ufffd", "\n".join(piece.text for piece in pieces))
    turns = sorted({piece.index for piece in pieces})
    roles = {_string(m, "role") for i, m in enumerate(messages) if i not in turns}
    reading = Reading(
        turns=tuple(turns),
        set_aside=tuple(
            sorted(kinds.union(_KIND_OF_ROLE[r] for r in roles & _KIND_OF_ROLE.keys()))
        ),
        chars_total=sum(len(part) for message in messages for _, part in _parts(message)),
        chars_read=len(text),
        chars_left_out=sum(piece.chars_left_out for piece in pieces),
    )
    return RequestText(text, reading)


def _string(mapping: Mapping[str, Any], key: str) -> str:
    """Return a field that should be a string; "" for anything else."""
    value = mapping.get(key)
    return value if isinstance(value, str) else ""


def _parts(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) for every part of the content; the kind of text is ""."""
    content = message.get("content")
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield "", part
        elif isinstance(part, Mapping):
            part_type = _string(part, "type")
            if part_type in _TEXT_PARTS and isinstance(part.get("text"), str):
                yield "", part["text"]
            else:
                yield _KIND_OF_PART.get(part_type, "other"), ""


def _text(message: Mapping[str, Any]) -> str:
    return "\n".join(text for _, text in _parts(message)).strip()


def _leans(text: str) -> bool:
    """Say whether a request needs what was said before it to be understood."""
    if len(text) > MAX_LEANING_CHARS or "```" in text:
        return False
    words = _WORD.findall(text.lower().replace("\u2019", "'"))
    if len(words) <= _ALWAYS_LEANING_WORDS or words[0] in _OPENERS:
        return True
    if _MATERIAL.search(text):
        return False
    if len(words) <= _QUESTION_WORDS and words[0] in _QUESTIONS:
        return True
    if len(words) <= _FRAGMENT_WORDS and words[0] in _FRAGMENT_OPENERS:
        return True
    if len(words) > _SENTENCE_WORDS:  # later on, a pronoun points into the sentence itself
        words = [*words[:_POINTING_WORDS], "..."]
    return not _POINTERS.isdisjoint(words) or _POINTING.search(" ".join(words)) is not None


def _ends(index: int, text: str, max_chars: int) -> _Piece:
    """Read a text whole, or both its ends when it is longer than `max_chars`."""
    if len(text) <= max_chars:
        return _Piece(index, text, 0)
    head_end = _word_end(text, max_chars // 2)
    tail_start = _word_start(text, len(text) - max_chars // 2)
    return _Piece(index, text[:head_end] + _GAP + text[tail_start:], tail_start - head_end)


def _word_end(text: str, at: int) -> int:
    """Return the last place up to `at` where a word ends; `at` when there is none near."""
    return next((i for i in range(at, at - _WORD_CUT_CHARS, -1) if text[i].isspace()), at)


def _word_start(text: str, at: int) -> int:
    """Return the first place from `at` on where a word starts; `at` when there is none near."""
    near = range(at, min(at + _WORD_CUT_CHARS, len(text)))
    return next((i for i in near if i == 0 or text[i - 1].isspace()), at)
