"""Recognise what chat front ends ask beside the conversation: titles, tags, follow-ups, queries.

Such calls are small and come with every turn; any expert can answer them. They are known by how
their instructions begin, in the system prompt or in the one message of a user that they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gateway.composition import Composition
from gateway.experts import Expert

_SYSTEM = re.compile(
    r"^(?:- ?)?(?:"
    r"You are a professional conversation summarizer\."  # LobeChat
    r"|Analyze if this message indicates a new conversation topic\."  # Claude Code
    r"|Generate a concise, sentence-case title \("  # Claude Code
    r"|You are a title generator\. You output ONLY "  # opencode
    r"|you will generate a short title based on the first message "  # Vercel's chat template, Crush
    r"|Generate a concise, descriptive title for this conversation "  # n8n
    r")",
    re.IGNORECASE | re.MULTILINE,
)
_USER = re.compile(
    r"\s*(?:"
    r"### Task:\s+(?:"  # Open WebUI
    r"Generate a concise, 3-5 word title"
    r"|Generate 1-3 broad tags "
    r"|Suggest 3-5 relevant follow-up questions "
    r"|Analyze the chat history to determine the necessity of generating search queries"
    r"|You are an autocompletion system\."
    r")"
    r"|(?:Provide|Please generate) a concise, 5-word-or-less title for the"  # LibreChat
    r"|Analyze this conversation and provide:\s+1\. The detected language"  # LibreChat
    r"|Please write a \d+-\d+ word title for the following conversation"  # Claude Code
    r")",
    re.IGNORECASE,
)
_HEAD_CHARS = 4000
"""Instructions stand at the beginning: no more of a system prompt is looked at."""


def is_background(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a conversation is a front end's own call, made behind the user's back."""
    system, user = "", ""
    for message in messages:
        if message["role"] in {"system", "developer"}:
            system = system or _head(message.get("content"))
        elif message["role"] == "user":
            user = _head(message.get("content"))
    return bool(_SYSTEM.search(system) or _USER.match(user))


def _head(content: object) -> str:
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = next((text for text in texts if text), "")
    return content[:_HEAD_CHARS] if isinstance(content, str) else ""


def by_size(composition: Composition, candidates: Collection[str]) -> tuple[Expert, ...]:
    """Return the candidates that the mapping uses, fewest active parameters first.

    Those of unknown size come last.
    """
    registry = composition.registry
    mapped = {name for ranked in composition.mapping.plain().values() for name in ranked}
    mapped.add(registry.file.general)
    usable = [name for name in candidates if name in mapped] or candidates
    experts = (registry[name] for name in usable)
    return tuple(sorted(experts, key=lambda expert: expert.active_params_b or math.inf))
