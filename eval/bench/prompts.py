"""The prompts that the bench sends: ordinary questions, made distinct by a number in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from routers.artifact import load_router
from routers.cascade import CascadeRouter
from routers.language_gate import LanguageGate

NUMBER = "9"
"""Where the number goes; in every question once, and nowhere else."""
QUESTIONS = (
    "Write a Python function that returns the 9th prime number and add type hints to it.",
    "My Docker container exits with code 9 right after it starts. How do I find out why?",
    "A train travels 9 miles in forty minutes. What is its average speed in miles per hour?",
    "Solve for x: three x squared minus 9 x plus two equals zero, and show every step.",
    "My 9 year old has had a fever and a dry cough since yesterday. When must we see a doctor?",
    "Is it safe to take ibuprofen 9 hours after a dose of aspirin with high blood pressure?",
    "My landlord kept a deposit of 9 euros without a reason. Can I take him to court for it?",
    "What does clause 9 of a usual non-disclosure agreement say about earlier knowledge?",
    "Why does a gas cool when it expands, and by how much if its volume grows 9 times?",
    "How many moles of carbon dioxide come from burning 9 grams of methane in pure oxygen?",
    "Should I pay off a loan of 9 dollars early, or put the money into an index fund?",
    "How is the yield of a bond computed that pays 9 percent and trades below its face value?",
    "What were the main causes of the revolt of 9 in the northern provinces of the empire?",
    "Compare how two philosophers of the 9th century thought about free will and fate.",
    "Write a short poem about the bridge over route 9 in the rain, in the voice of a child.",
    "Draft a friendly reminder to a client whose invoice number 9 has been due for two weeks.",
    "What should I cook for 9 guests tonight if two of them eat no meat and one no nuts?",
    "Suggest a plan for a weekend trip with a budget of 9 for two people who like hiking.",
    "Remind me what we talked about earlier, it was something about number 9 on the list.",
    "Which phone would you buy if you could spend 9 and cared most about its camera?",
)
_NOTES = Path(__file__).with_name("notes.txt")
"""What somebody may have written behind a question: a paragraph for two of them, on their topic."""
CHARS_PER_TOKEN = 4.5
"""About, in the tokenizer of the default router's encoder."""
_SHORT_CHARS = 100
"""A prompt of at most this is the question alone."""


def prompts(n_chars: int, *, mixed: bool = False) -> list[str]:
    """Return the questions, with notes behind them where they are to be longer.

    The notes are on the topic of the question, or on another one where `mixed`; those that are too
    short are repeated.
    """
    if n_chars <= _SHORT_CHARS:
        return list(QUESTIONS)
    notes = _NOTES.read_text(encoding="utf-8").strip().split("\n\n")
    n_each = len(QUESTIONS) // len(notes)
    shift = len(notes) // 2 if mixed else 0
    texts = []
    for index, question in enumerate(QUESTIONS):
        behind = "\n\n" + notes[(index // n_each + shift) % len(notes)]
        texts.append((question + behind * (n_chars // len(behind) + 1))[:n_chars])
    return texts


def n_encoded(texts: Sequence[str], router_folder: Path) -> int:
    """Return for how many of the prompts a router asks its encoder; all where it has but that."""
    router = load_router(router_folder)
    inner = router.router if isinstance(router, LanguageGate) else router
    if not isinstance(inner, CascadeRouter):
        return len(texts)
    return int(inner.needs_strong(inner.cheap.predict_proba(texts)).sum())
