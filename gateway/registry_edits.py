"""``coe experts add|set|remove``: edits of the file itself, which a running gateway then takes."""

from __future__ import annotations

import asyncio
import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gateway.backends.openai_http import OpenAIBackend
from gateway.composition import checked_registry
from gateway.config import parse_experts_file, read_experts_text
from gateway.discovery import ServedModel, discover
from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry, check_keys
from gateway.live.answering import check_answers
from gateway.live.changes import merge_patched, shown_mapping, without_expert
from gateway.live.edits import patch_expert, put_expert, set_mapping
from gateway.live.files import replace_text
from gateway.schema import MappingTable
from gateway.sizes import SizeError, inspect_model

_FETCHED = ("embedded:", "hf:")
"""Beginnings of models that are no paths."""
Shown = dict[str, Any]
Fields = dict[str, Any]


def add(
    name: str,
    source: str,
    *,
    config: Path,
    model: str | None,
    adapters: bool,
    api_key_env: str | None,
    description: str | None,
    categories: Sequence[str],
    force: bool,
    dry_run: bool,
) -> Shown:
    """Add an expert, and the adapters over it, with what can be learned of them.

    Raises
    ------
    ConfigError
        When there is one of that name, the server does not answer as it should, or the registry
        would not be valid; nothing is written then. So do the other functions.
    """
    file = parse_experts_file(read_experts_text(config), config.name)
    names = {expert.name for expert in file.experts}
    if name in names:
        raise ConfigError(f"there is an expert {name!r} already. Change it with coe experts set")
    if source.startswith(("http://", "https://")):
        url, key = _with_v1(source), _key(api_key_env)
        experts, notes = _remote(name, url, _asked(url, key, model, force=force), adapters=adapters)
    else:
        experts, notes = _local(name, source, config.parent, force=force)
    if taken := sorted(experts.keys() & names):
        raise ConfigError(
            f"there is an expert {', '.join(map(repr, taken))} already, and adapters of the server "
            "would be named so. Give another name, or use --no-adapters"
        )
    given = {"description": description, "api_key_env": api_key_env}
    known = {key: value for key, value in given.items() if value is not None}

    def change(text: str) -> str:
        for expert, fields in experts.items():
            text = put_expert(text, expert, {**known, **fields})
        return _first_in(text, name, categories)

    return _write(config, change, notes, force=force, dry_run=dry_run)


def assign(
    name: str, assignments: Sequence[str], *, config: Path, force: bool, dry_run: bool
) -> Shown:
    """Set keys, given as ``KEY=VALUE`` or ``KEY.KEY=VALUE``; values are YAML."""
    pairs = [_parsed(one) for one in assignments]
    inside = {key: value for key, value in pairs if "." in key}
    plain = {key: value for key, value in pairs if "." not in key}

    def change(text: str) -> str:
        text = patch_expert(text, name, plain)
        for key, value in inside.items():
            outer, _, inner = key.partition(".")
            text = merge_patched(text, name, {outer: {inner: value}})
        return text

    return _write(config, change, [], force=force, dry_run=dry_run)


def remove(name: str, *, config: Path, force: bool, dry_run: bool) -> Shown:
    """Remove an expert; forced, also one that other keys name."""
    return _write(
        config,
        lambda text: without_expert(text, name, force=force),
        [],
        force=force,
        dry_run=dry_run,
    )


def _with_v1(url: str) -> str:
    """Return the address up to and with /v1: a server's own address is completed."""
    return f"{url.rstrip('/')}/v1" if urlsplit(url).path in {"", "/"} else url.rstrip("/")


def _key(api_key_env: str | None) -> str | None:
    if api_key_env is None:
        return None
    if not os.environ.get(api_key_env):
        raise ConfigError(
            f"the environment variable {api_key_env} must hold the server's key; it is not set. "
            f"Set it: export {api_key_env}=..."
        )
    return os.environ[api_key_env]


def _asked(url: str, key: str | None, model: str | None, *, force: bool) -> list[ServedModel]:
    """Ask a server; forced, one that does not answer is taken at the operator's word."""
    try:
        return list(asyncio.run(discover(url, key, model)))
    except ConfigError as error:
        if not force or model is None:
            raise
        return [ServedModel(model, notes=(f"not asked: {error}",))]


def _remote(
    name: str, url: str, served: Sequence[ServedModel], *, adapters: bool
) -> tuple[dict[str, Fields], list[str]]:
    base, *others = served
    kept = others if adapters else []
    experts = {name: _fields(base, url)}
    for one in kept:
        fields = _fields(one, url)
        fields |= {key: experts[name][key] for key in ("active_params_b", "total_params_b")}
        fields["context_window"] = one.context_window or base.context_window
        expert = f"{name}-{re.sub('[^A-Za-z0-9._-]+', '-', one.id)}"
        if expert in experts:
            raise ConfigError(
                f"two adapters of {url} would be named {expert!r}: {experts[expert]['model']!r} "
                f"and {one.id!r}. Use --no-adapters, and add each with --model"
            )
        experts[expert] = fields
    if kept:
        for fields in experts.values():
            fields["weights"] = name
    return experts, [f"{one.id}: {note}" for one in (base, *kept) for note in one.notes]


def _fields(served: ServedModel, url: str) -> Fields:
    fields = {
        "backend": "openai",
        "base_url": url,
        "model": served.id,
        "active_params_b": served.active_params_b,
        "total_params_b": served.total_params_b,
        "context_window": served.context_window,
        "capabilities": list(served.capabilities),
    }
    return fields | ({"continuation": served.continuation} if served.continuation else {})


def _local(
    name: str, source: str, folder: Path, *, force: bool
) -> tuple[dict[str, Fields], list[str]]:
    """Return an expert that the gateway runs itself, from a GGUF file."""
    path = folder / Path(source).expanduser()
    if not force and not source.startswith(_FETCHED) and not path.exists():
        raise ConfigError(
            f"the second argument must be the http(s) URL of a server or a .gguf file that is "
            f"there; got {source!r}. Begin a URL with http://; a file is looked for beside the "
            "experts file"
        )
    fields: Fields = {"backend": "local", "model": source}
    try:
        size = inspect_model(str(path))
    except SizeError:
        note = f"size unknown: derive it with coe experts inspect {source}"
        return {name: {**fields, "active_params_b": None, "total_params_b": None}}, [note]
    fields["active_params_b"] = float(f"{size.active_params_b:.4g}")
    fields["total_params_b"] = float(f"{size.total_params_b:.4g}")
    return {name: {**fields, "continuation": "prefill"}}, []


def _first_in(text: str, name: str, categories: Sequence[str]) -> str:
    if not categories:
        return text
    mapping = parse_experts_file(text).mapping
    if isinstance(mapping, MappingTable):
        raise ConfigError("--category is for a mapping by hand; this one is solved: use coe map")
    ranks = shown_mapping(text)
    for category in categories:
        ranks[category] = [name, *ranks.get(category, [])]
    return set_mapping(text, ranks)


def _parsed(assignment: str) -> tuple[str, Any]:
    key, separator, value = assignment.partition("=")
    try:
        if not key or not separator:
            raise ValueError
        read = YAML(typ="safe", pure=True).load(value)
    except (YAMLError, ValueError) as error:
        raise ConfigError(
            f"an edit must be KEY=VALUE with a value in YAML; got {assignment!r}. Write e.g. "
            "context_window=8192"
        ) from error
    is_text = isinstance(read, dict | list) and value.lstrip()[:1] not in {"{", "["}
    return key, value if is_text else read  # "a: b" is a sentence, {a: b} is none


def _write(
    config: Path, change: Callable[[str], str], notes: list[str], *, force: bool, dry_run: bool
) -> Shown:
    """Change the file after all checks; returns what changed."""
    before = read_experts_text(config)
    try:
        after = change(before)
    except ConfigError as error:  # edits know a text, not where it stands
        raise ConfigError(re.sub(r"(?m)^experts\.yaml(?=:)", config.name, str(error))) from error
    registry = checked_registry(after, config, None)
    try:
        check_keys(registry, os.environ)
    except ConfigError as error:
        notes = [*notes, f"where the gateway runs: {error}"]
    if not force:
        asyncio.run(_check_answers(registry, before))
    if not dry_run:
        _replace(config, before, after)
    diff = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    lines = [line for line in diff if line[:2] not in {"--", "++", "@@"}]
    return {"written": not dry_run, "diff": lines, "notes": notes}


async def _check_answers(registry: ExpertRegistry, before: str) -> None:
    old = ExpertRegistry(parse_experts_file(before, registry.path.name), registry.path)
    names = {e.api_key_env for each in (old, registry) for e in each.values() if e.api_key_env}
    # no local expert is asked, so no folder of sockets is needed
    backend = OpenAIBackend(Path(), {name: os.environ.get(name, "") for name in names})
    try:
        await check_answers(backend, registry, old, "--force")
    finally:
        await backend.aclose()


def _replace(config: Path, before: str, after: str) -> None:
    if read_experts_text(config) != before:
        raise ConfigError(f"{config} was edited in between. Try again")
    try:
        replace_text(config, after)
    except OSError as error:
        raise ConfigError(f"{config} cannot be written: {error}") from error
