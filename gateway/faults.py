"""What is wrong with ``experts.yaml``, in words: what must be, what came, how to mend it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from pydantic_core import ErrorDetails

from gateway.schema import (
    RANKS_FORM,
    TABLE_FORM,
    ExpertConfig,
    ExpertsFile,
    LlmRouterConfig,
    MappingTable,
    Runtime,
    Timeouts,
)

Location = tuple[int | str, ...]
_GOT_CHARS = 80

_KEYS = {
    "experts": tuple(ExpertConfig.model_fields),
    "timeout_s": tuple(Timeouts.model_fields),
    "runtime": tuple(Runtime.model_fields),
    "llm_router": tuple(LlmRouterConfig.model_fields),
    "mapping": tuple(MappingTable.model_fields),
    "": tuple(ExpertsFile.model_fields),
}
_EXAMPLES = {
    "version": "version: 1",
    "general": "general: NAME, one of the experts",
    "experts": "experts: [{name: NAME, backend: openai, base_url: URL, model: MODEL}]",
    "mapping": "mapping: {coding: [NAME]}, or mapping: {} to send every prompt to `general`",
    "name": "name: math",
    "backend": "backend: openai",
    "model": "model: MODEL, the name that its server knows it by",
    "timeout_s": "timeout_s: {idle: 60}",
    "runtime": "runtime: {parallel: 4}",
    "keywords": "keywords: {law: [contract]}",
    "llm_router": "llm_router: {expert: NAME}",
    "expert": "expert: NAME",
    "table": "table: mapping.json",
    "presets": "presets: {default: 0}",
}
_KINDS = {
    "string_type": "be text",
    "int_type": "be a whole number",
    "int_from_float": "be a whole number",
    "float_type": "be a number",
    "bool_type": "be true or false",
    "tuple_type": "be a list",
    "list_type": "be a list",
    "dict_type": "hold keys with values",
    "model_type": "hold keys with values",
}
"""Pydantic's name of a fault -> what the value must do."""


def _dotted(location: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.lstrip(".")


def in_words(item: ErrorDetails) -> tuple[Location, str]:
    """Put one pydantic error in our words."""
    location = item["loc"]
    if location[:2] in {("mapping", TABLE_FORM), ("mapping", RANKS_FORM)}:
        location = ("mapping", *location[2:])  # the form is no key of the file
    kind, got = item["type"], item["input"]
    where = _dotted(location)
    if kind == "extra_forbidden":
        return location, _unknown_key(location)
    key = str(location[-1]) if location else ""
    if kind == "missing":
        example = f", e.g. {_EXAMPLES[key]}" if key in _EXAMPLES else ""
        return location, f"{where} is missing. Add it{example}"
    shown = _shown(key, got)
    if kind == "value_error":
        must, _, mend = str(item["ctx"]["error"]).partition(". ")
        return location, f"{where} {must}; got {shown}" + (f". {mend}" if mend else "")
    if kind == "string_pattern_mismatch":
        must, mend = _name_of(key, got)
    else:
        allowed = item["msg"].partition("should ")[2].partition(" after validation")[0]
        must, mend = _KINDS.get(kind, allowed), _mend(location, kind, got)
    return location, f"{where} must {must}; got {shown}{mend}"


def _name_of(key: str, got: object) -> tuple[str, str]:
    """Return what a name must be, and the mend."""
    if key == "api_key_env":
        return (
            "be the name of an environment variable, e.g. VLLM_API_KEY",
            ". Put the key itself into that variable",
        )
    better = re.sub(r"[^A-Za-z0-9._-]+", "-", str(got)).lstrip("._-")[:64]
    return (
        "be 1 to 64 letters, digits, '.', '_' and '-', and begin with a letter or a digit",
        f". Write {better}" if better else "",
    )


def _mend(location: Location, kind: str, got: object) -> str:
    key, is_text = location[-1] if location else "", isinstance(got, str)
    if kind in {"float_type", "int_type"} and is_text:
        return ". Write the number alone, without a unit and without quotes"
    if kind in {"tuple_type", "list_type"} and is_text:
        return f". Write [{got}]"
    if kind in _KINDS and key in _EXAMPLES:
        return f". Write e.g. {_EXAMPLES[key]}"
    if len(location) == 2 and location[0] == "mapping" and not got:
        return ". Name an expert, or leave the category out: it then goes to `general`"
    return ""


def yaml_mend(problem: str) -> str:
    """Return how to mend what is not valid YAML."""
    if "\\t" in problem:
        return "Indent with spaces instead of the tab"
    return "See the indentation, colons, brackets and quotes here and in the line before"


def _shown(key: str, got: object) -> str:
    """Return a value as it came, but nothing that may be a key or a password."""
    text = str(got)
    if key == "api_key_env" and not text.isidentifier():
        return "something else, which is not shown as it may be the key"
    if key == "base_url" and any(mark in text for mark in "@?#"):
        return "one that is not shown as it may hold a key"
    return short(got)


def short(value: object) -> str:
    """Return a value as it came, cut to one line."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _GOT_CHARS else f"{text[: _GOT_CHARS - 3]}..."


def _unknown_key(location: Location) -> str:
    parents = [part for part in location[:-1] if isinstance(part, str)]
    allowed = _KEYS.get(parents[-1] if parents else "", _KEYS[""])
    return f"{_dotted(location)} is not a key. {suggest(str(location[-1]), allowed)}"


def suggest(got: str, allowed: Sequence[str]) -> str:
    """Return what is allowed, and what was probably meant."""
    close = difflib.get_close_matches(got, allowed, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(dict.fromkeys(allowed))}"
