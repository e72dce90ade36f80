"""Go on with an answer that broke in the middle of its stream, on another expert.

What the client already has is put behind the conversation as the beginning of the assistant's
answer; the next expert continues it. An expert says in ``experts.yaml`` how it does that
(`continuation`).

References
----------
vLLM, chat completions: ``continue_final_message`` with ``add_generation_prompt: false``;
llama.cpp server: a last message of the assistant is continued (assistant prefill).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
from msgspec import Raw

from gateway.experts import Expert
from gateway.protocol import COMPLETIONS, ChatRequest
from gateway.protocol_text import continued_prompt

_FIELDS = {
    "prefill": {},
    "continue_final_message": {
        "continue_final_message": Raw(b"true"),
        "add_generation_prompt": Raw(b"false"),
    },
}
_LIMITS = ("max_tokens", "max_completion_tokens")
_ONE = {b"1", b"null"}


def successors(request: ChatRequest, text: str | None, experts: Sequence[Expert]) -> list[Expert]:
    """Return the experts that could go on with an answer.

    Where the client has nothing yet, every expert can begin anew. Several choices cannot be
    continued, nor can JSON: its grammar would start anew in the middle. A text completion is
    continued by every expert: what there is of it goes behind the prompt.

    Parameters
    ----------
    text : str or None
        What the client has of the answer; None when that is more than text, e.g. half a tool call.
    experts : sequence of Expert
        Those planned for the request.
    """
    if text == "":
        return list(experts)
    if request.path == COMPLETIONS:
        can = text is not None and continued_prompt(request.fields, text) is not None
        return list(experts) if can else []
    one_choice = bytes(request.fields.get("n", Raw(b"1"))) in _ONE
    if text is None or not one_choice or "response_format" in request.fields:
        return []
    return [expert for expert in experts if expert.continuation is not None]


def continued(request: ChatRequest, text: str, n_tokens: int, expert: Expert) -> ChatRequest:
    """Return the request for the rest of an answer that begins with `text`.

    Parameters
    ----------
    n_tokens : int
        Completion tokens that `text` took: the request's own limits are lowered by them.
    expert : Expert
        Who is to go on; its `continuation` says how it is told.
    """
    fields = dict(request.fields)
    for name in _LIMITS:
        limit = msgspec.json.decode(fields.get(name, Raw(b"null")))
        if limit is not None:
            fields[name] = Raw(str(max(1, limit - n_tokens)).encode())
    prompt = continued_prompt(fields, text) if request.path == COMPLETIONS else None
    if prompt is not None:
        return replace(request, fields={**fields, "prompt": prompt})
    messages = list(request.messages)
    if text:
        messages.append({"role": "assistant", "content": text})
        fields |= _FIELDS[expert.continuation or "prefill"]
    fields["messages"] = Raw(msgspec.json.encode(messages))
    return replace(request, messages=messages, fields=fields)
