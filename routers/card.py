"""The card of a router artifact: what it is, what it learned from, how it scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from routers.base import GENERAL

FORMAT: Literal[2] = 2

NAME_PATTERN = "[a-z0-9._-]+"
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Name = Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$")]


class Card(msgspec.Struct, kw_only=True, frozen=True):
    """What ``router.json`` says.

    Attributes
    ----------
    format : int
        Version of this layout.
    type : str
        A key of `routers.registry`.
    name, version, categories, min_margin, active_params_b
        See `routers.base.Router` and `routers.registry.StoredRouter`.
    settings : dict
        What the router's class needs beyond its files.
    files : dict of str to str
        Path in the folder -> SHA-256.
    training : dict
        How it was made and how it scored; for people, not read by the product.
    """

    format: Literal[2]
    type: str
    name: Name
    version: str
    categories: tuple[str, ...]
    min_margin: Probability
    active_params_b: float
    settings: dict[str, Any]
    files: dict[str, str]
    training: dict[str, Any]


def render(card: Card) -> str:
    """Say in Markdown what the card says."""
    lines = list(_head(card))
    if "held_out" in card.training:
        lines.extend(_scores(card.training["held_out"], card.training.get("calibrated")))
        lines.extend(_by_category(card))
    if "latency_ms" in card.training:
        lines.append(f"\n{latency_told(card.training['latency_ms'])}.")
    if "data" in card.training:
        lines.extend(_data(card.training["data"]))
    return "\n".join(lines) + "\n"


def _head(card: Card) -> Iterator[str]:
    yield f"# {card.name}@{card.version}"
    yield ""
    yield (
        f"A `{card.type}` prompt router with {len(card.categories)} categories "
        f"({', '.join(card.categories)}). An average prompt takes "
        f"{1_000 * card.active_params_b:.1f} million parameters."
    )
    yield from _escalation(settings_behind_gate(card))
    yield (f"Answers {margin_told(card)} less than {card.min_margin:.3f} go to the general expert.")
    for note in card.training.get("notes", ()):
        yield f"\n{note}"


def margin_told(card: Card) -> str:
    """Say what the threshold is held against; see `routers.base.margins`."""
    is_lead = GENERAL in card.categories
    return f"whose probability leads that of `{GENERAL}` by" if is_lead else "with a probability of"


def settings_behind_gate(card: Card) -> Mapping[str, Any]:
    """Return the settings of a router, or of the one behind a language gate."""
    settings: Mapping[str, Any] = card.settings.get("router", {}).get("settings", card.settings)
    return settings


def _escalation(settings: Mapping[str, Any]) -> Iterator[str]:
    """Say of a cascade which prompts its cheap router answers."""
    if "escalated" not in settings:
        return
    least, most = min(settings["escalate_below"]), max(settings["escalate_below"])
    if least > 1:
        yield "Its encoder is always asked: few prompts do not tell when its cheap stage errs."
    else:
        yield (
            f"Its cheap stage answers alone where it is {least:.3f} sure or more, in some "
            f"categories {'never' if most > 1 else f'{most:.3f}'}; for "
            f"{settings['escalated']:.0%} of the hold-out the encoder was asked too."
        )


def _scores(scores: Mapping[str, Any], calibrated: Mapping[str, Any] | None) -> Iterator[str]:
    if calibrated is None and scores.get("folds"):
        yield "\n## Scores on the training rows, by routers that had not learned from them\n"
        origin = (
            f"Rows are few: each was answered by one of {scores['folds']} routers that learned "
            f"from the other parts of them. Expect less on other sources."
        )
    elif calibrated is None:
        yield "\n## Scores on the hold-out, which was not trained on\n"
        origin = (
            "Most of the hold-out comes from the same sources as the training rows: expect less on "
            "others."
        )
    else:
        yield "\n## Scores on the prompts that it was calibrated on last\n"
        origin = f"SHA-256 of these prompts: `{calibrated['sha256']}`."
    yield (
        f"{scores['n']} prompts, which temperature and threshold are fitted to: accuracy "
        f"{scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}, expected "
        f"calibration error {scores['ece']:.3f}. "
        f"{scores['coverage']:.1%} keep their category, with accuracy "
        f"{scores['covered_accuracy']:.3f}. {origin}"
    )


def _by_category(card: Card) -> Iterator[str]:
    yield "\n| category | precision | recall | F1 | prompts |\n|---|---|---|---|---|"
    for row in scores_by_category(card):
        yield f"| {' | '.join(row)} |"


def scores_by_category(card: Card) -> Iterator[tuple[str, str, str, str, str]]:
    """Return name, precision, recall, F1 and prompts of every category; "-" where there is none."""
    scores = card.training["held_out"]
    answered = [sum(column) for column in zip(*scores["confusion"], strict=True)]
    for at, (category, counts) in enumerate(zip(card.categories, scores["confusion"], strict=True)):
        hits, labelled = counts[at], sum(counts)
        f1 = scores["f1"].get(category)
        yield (
            category,
            f"{hits / answered[at]:.3f}" if answered[at] else "-",
            f"{hits / labelled:.3f}" if labelled else "-",
            "-" if f1 is None else f"{f1:.3f}",
            str(labelled),
        )


def latency_told(latency_ms: Mapping[str, float]) -> str:
    """Say what `routers.latency.latency_ms` found."""
    spent = " / ".join(f"{ms:.1f}" for ms in latency_ms.values())
    words = " / ".join(latency_ms)
    return f"milliseconds at {words} words: {spent}; of long prompts only the ends are read"


def _data(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Data\n"
    yield (
        f"{facts['rows_read']} rows read; without duplicates and over-full sources "
        f"{facts['rows_trained']} were trained on. {facts['rows_held_out']} were held out, "
        f"{facts['rows_of_unseen_sources']} of them of sources without a training row. "
        f"SHA-256 of the rows used: `{facts['sha256']}`."
    )
    yield "\n| source | licence | category | rows |\n|---|---|---|---|"
    for row in facts["sources"]:
        yield f"| {row['source']} | {row['licence']} | {row['category']} | {row['rows']} |"
