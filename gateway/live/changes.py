"""Edits that need more than a place in the text: references between keys, merge patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.config import parse_experts_file
from gateway.errors import ConfigError
from gateway.live.edits import no_expert, patch_expert, remove_expert, set_mapping, set_top
from gateway.schema import ExpertsFile, MappingTable


def shown_experts(text: str) -> dict[str, dict[str, Any]]:
    """Return each expert's keys as they are written, what is merged in included."""
    experts = parse_experts_file(text).experts
    return {e.name: e.model_dump(mode="json", exclude_unset=True) for e in experts}


def shown_mapping(text: str) -> dict[str, Any]:
    """Return the mapping as it is written."""
    mapping = parse_experts_file(text).mapping
    if isinstance(mapping, MappingTable):
        return mapping.model_dump(mode="json", exclude_unset=True)
    return {category: list(ranked) for category, ranked in mapping.items()}


def changed_experts(before: str, after: str) -> list[str]:
    """Return the names of the experts that differ, those that came or went included."""
    old, new = ({e.name: e for e in parse_experts_file(text).experts} for text in (before, after))
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def merge_patched(text: str, name: str, patch: Mapping[str, Any]) -> str:
    """Apply a JSON merge patch to an expert: null takes a key out.

    References
    ----------
    RFC 7396
    """
    own = shown_experts(text).get(name)
    if own is None:
        raise no_expert(text, name)
    fields = {key: _merged(own.get(key), value) for key, value in patch.items()}
    removed = [key for key, value in patch.items() if value is None]
    return patch_expert(text, name, {k: v for k, v in fields.items() if k not in removed}, removed)


def _merged(own: object, patch: object) -> object:
    if not isinstance(patch, Mapping):
        return patch
    base = dict(own) if isinstance(own, Mapping) else {}
    merged = {**base, **{key: _merged(base.get(key), value) for key, value in patch.items()}}
    return {key: value for key, value in merged.items() if patch.get(key, value) is not None}


def without_expert(text: str, name: str, *, force: bool) -> str:
    """Remove an expert.

    Parameters
    ----------
    force : bool
        Also one that other keys name: they are then led to the others.

    Raises
    ------
    ConfigError
        When there is none of that name, it is the last one, or others name it and `force` is not.
    """
    file = parse_experts_file(text)
    names = [expert.name for expert in file.experts]
    if name not in names:
        raise no_expert(text, name)
    if names == [name]:
        raise ConfigError(f"{name!r} is the last expert. Add another one first")
    uses = _uses(file, name)
    if uses and not force:
        raise ConfigError(
            f"expert {name!r} is named by {', '.join(uses)}. Name another one there first, or "
            "force it: these then go to the other experts"
        )
    return remove_expert(_unused(text, file, name) if uses else text, name)


def _uses(file: ExpertsFile, name: str) -> list[str]:
    uses = ["general"] if file.general == name else []
    if file.llm_router is not None and file.llm_router.expert == name:
        uses.append("llm_router.expert")
    ranks = {} if isinstance(file.mapping, MappingTable) else file.mapping
    return [*uses, *(f"mapping.{category}" for category, ranked in ranks.items() if name in ranked)]


def _unused(text: str, file: ExpertsFile, name: str) -> str:
    """Return a text in which no key names an expert any more."""
    if file.general == name:
        other = next(expert.name for expert in file.experts if expert.name != name)
        text = set_top(text, {"general": other})
    if file.llm_router is not None and file.llm_router.expert == name:
        text = set_top(text, {"llm_router": None})
    if isinstance(file.mapping, MappingTable):
        return text
    ranks = {c: [n for n in ranked if n != name] for c, ranked in file.mapping.items()}
    return set_mapping(text, {category: ranked for category, ranked in ranks.items() if ranked})
