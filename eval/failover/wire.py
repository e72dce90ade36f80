"""What the client and the faulty upstreams agree on: orders in the prompt, and the right answer.

The prompt of a request tells each upstream how to fail, so that requests under way at the same time
may fail differently. Every piece of an answer carries the nonce of its request: a piece of somebody
else's answer, or a lost one, shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FAULTY, HEALTHY = "faulty", "healthy"
ROLES = (FAULTY, HEALTHY)
OK = "ok"
N_PIECES = 8
PROMPT_TOKENS = {FAULTY: 111, HEALTHY: 10}
"""Reported as usage, so that it shows whose count a client is given."""

_ORDERS = re.compile(r"\[(\w+): ([\w.-]+)\]")


@dataclass(frozen=True, slots=True)
class Orders:
    """What a prompt asks for.

    Attributes
    ----------
    nonce : str
        Carried by every piece of the answer.
    faults : mapping of str to str
        Role of an upstream -> how it fails; ``ok`` for those left out.
    n_pieces : int
        Pieces of the whole answer; each counts as a token.
    """

    nonce: str
    faults: Mapping[str, str]
    n_pieces: int = N_PIECES

    def prompt(self) -> str:
        """Return the prompt that gives these orders."""
        orders = {"nonce": self.nonce, **self.faults, "pieces": self.n_pieces}
        return "Say the code. " + " ".join(f"[{key}: {value}]" for key, value in orders.items())

    def answer(self) -> str:
        """Return the whole answer."""
        return "".join(self.pieces())

    def pieces(self) -> list[str]:
        """Return what an upstream streams, piece by piece."""
        return [f"{self.nonce}-{i} " for i in range(self.n_pieces)]

    def after(self, begun: str) -> list[str]:
        """Return the pieces that follow an answer begun by another expert; all when it is none."""
        whole = self.answer()
        left = whole.removeprefix(begun) if begun else whole
        return re.findall(r"\S* ?", left)[:-1]


def read_orders(messages: Sequence[Mapping[str, Any]]) -> Orders:
    """Read the orders in the last message of the user; raises `LookupError` when there are none."""
    asked = [message["content"] for message in messages if message["role"] == "user"][-1]
    if not isinstance(asked, str):  # a list of parts
        asked = " ".join(part.get("text", "") for part in asked)
    found = dict(_ORDERS.findall(asked))
    faults = {role: found[role] for role in ROLES if role in found}
    return Orders(found["nonce"], faults, int(found["pieces"]))


def begun(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the beginning of the answer that the upstream is asked to continue."""
    last = messages[-1]
    return str(last["content"]) if last["role"] == "assistant" else ""
