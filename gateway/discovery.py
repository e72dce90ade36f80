"""Ask a server which models it serves and what they can do; what it claims is checked, not trusted.

References
----------
vLLM ``/v1/models`` (``max_model_len``; an adapter names its base as ``parent``); llama.cpp
``/props`` (``n_ctx`` is that of one conversation); Ollama ``/api/show`` and ``/api/ps``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from gateway.errors import ConfigError
from gateway.schema import Capability
from gateway.sizes import SizeError, inspect_model

TIMEOUT_S = 3.0
"""Longest wait for what a server tells of itself, in seconds."""
ANSWER_TIMEOUT_S = 60.0
"""Longest wait for a token, in seconds: the first one may have to load the model."""
MOST_BYTES = 4 * 2**20
MOST_TOKENS = 100_000_000
"""No model has a longer context: a larger claim is a mistake."""
MOST_ID_CHARS = 256
MOST_SHOWN = 20
_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as its server describes it; None is what it does not tell, or not believably.

    Attributes
    ----------
    id : str
        What the server knows it by.
    parent : str or None
        Id of the model whose weights it adapts (LoRA); None for one with weights of its own.
    context_window : int or None
        Tokens of prompt and answer together.
    total_params_b, active_params_b : float or None
        In 10^9.
    continuation : str or None
        See `gateway.schema.ExpertConfig`.
    notes : tuple of str
        What could not be learned, and what was not believed.
    """

    id: str
    parent: str | None = None
    context_window: int | None = None
    total_params_b: float | None = None
    active_params_b: float | None = None
    capabilities: tuple[Capability, ...] = ()
    continuation: str | None = None
    notes: tuple[str, ...] = ()


class Listed(msgspec.Struct):
    """One entry of ``/v1/models``; what other servers add is looked up by key."""

    id: str
    owned_by: Any = None
    root: Any = None
    parent: Any = None
    meta: Any = None
    max_model_len: Any = None
    context_length: Any = None
    context_window: Any = None

    @property
    def claimed_context(self) -> object:
        """What the server says of its context, whatever that is; None when it says nothing."""
        claims = (self.max_model_len, self.context_length, self.context_window)
        return next((claim for claim in claims if claim is not None), None)


class _List(msgspec.Struct):
    data: list[Listed]


async def discover(
    base_url: str, api_key: str | None = None, model: str | None = None
) -> tuple[ServedModel, ...]:
    """Ask a server for one of its models, and for the adapters over that one.

    Parameters
    ----------
    base_url : str
        Up to and with ``/v1``.
    api_key : str or None
        Sent as ``Authorization: Bearer``.
    model : str or None
        Id of the model; None: the only one, adapters apart.

    Returns
    -------
    tuple of ServedModel
        The model first.

    Raises
    ------
    ConfigError
        When the server cannot be reached, hangs, does not answer with a list of models, or does
        not have that one.
    """
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        server = _Server(base_url.rstrip("/"), session)
        listed = await server.models()
        parents = _parents(listed)
        wanted = _wanted(base_url, parents, model)
        chosen = [entry for entry in listed if wanted in {entry.id, parents[entry.id]}]
        chosen.sort(key=lambda entry: entry.id != wanted)
        return tuple([await _described(server, entry, parents[entry.id]) for entry in chosen])


def _parents(listed: Sequence[Listed]) -> dict[str, str | None]:
    """Return each model's id -> the id of the model that it adapts."""
    ids = {entry.id for entry in listed}
    return {
        entry.id: entry.parent
        if isinstance(entry.parent, str) and entry.parent in ids - {entry.id}
        else None
        for entry in listed
    }


def _wanted(base_url: str, parents: Mapping[str, str | None], model: str | None) -> str:
    shown = ", ".join(list(parents)[:MOST_SHOWN]) + (", ..." if len(parents) > MOST_SHOWN else "")
    if model is not None:
        if model not in parents:
            raise ConfigError(f"{base_url} does not serve {model!r}. Allowed: {shown}")
        return model
    bases = [name for name, parent in parents.items() if parent is None]
    if len(bases) != 1:
        raise ConfigError(f"{base_url} serves {len(bases)} models. Name one: --model; {shown}")
    return bases[0]


def read_models(body: bytes, url: str) -> list[Listed]:
    """Read the answer to ``GET /v1/models``.

    Raises
    ------
    ConfigError
        When it is not a list of models with names of their own.
    """
    try:
        listed = msgspec.json.decode(body, type=_List).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        must = "a list of models, {'data': [{'id': ...}]}"
        raise ConfigError(f"{url} must answer with {must}; {error}") from error
    ids = [entry.id for entry in listed]
    if not ids:
        raise ConfigError(f"{url} must answer with a list of models; it lists none. Load one there")
    odd = [name for name in ids if not _is_plain(name)]
    if odd or len(set(ids)) < len(ids):
        got = f"the name {odd[0][:_SHOWN_CHARS]!r}" if odd else f"the names {ids[:5]}"
        raise ConfigError(f"{url} must answer with models with names of their own; got {got}")
    return listed


class _Server:
    """A server that is asked."""

    def __init__(self, base_url: str, session: aiohttp.ClientSession) -> None:
        self.base_url = base_url
        self._session = session

    async def models(self) -> list[Listed]:
        url = f"{self.base_url}/models"
        return read_models(await self.call("GET", url), url)

    async def call(
        self, method: str, url: str, body: object = None, timeout_s: float = TIMEOUT_S
    ) -> bytes:
        """Return the body of an answer; raises `ConfigError` when it is no 200."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, url, json=body, allow_redirects=False, timeout=timeout
            ) as response:
                content = await response.content.read(MOST_BYTES + 1)
                while not response.content.at_eof() and len(content) <= MOST_BYTES:
                    content += await response.content.read(MOST_BYTES)
        except TimeoutError as error:
            raise ConfigError(
                f"{url} did not answer within {timeout_s:g} s. See whether the server is up"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ConfigError(
                f"{url} cannot be asked: {error}. Start the server, or correct the address"
            ) from error
        if response.status in {401, 403}:
            raise ConfigError(
                f"{url} wants a key ({response.status}). Name its variable: --api-key-env"
            )
        if response.status != 200:
            raise ConfigError(
                f"{url} must answer 200; got {response.status}. Write the address up to and with "
                "/v1"
            )
        if len(content) > MOST_BYTES:
            raise ConfigError(f"{url} must answer with at most {MOST_BYTES} bytes; got more")
        return content

    async def own(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Return a JSON object of the server's own interface; empty when it has none such."""
        try:
            content = await self.call(method, f"{self.base_url.removesuffix('/v1')}{path}", body)
            found = msgspec.json.decode(content)
        except (ConfigError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    async def refusal(self, body: Mapping[str, Any]) -> str | None:
        """Return why the server does not answer a chat completion request; None when it does."""
        try:
            await self.call("POST", f"{self.base_url}/chat/completions", body, ANSWER_TIMEOUT_S)
        except ConfigError as error:
            return str(error)
        return None


def _is_plain(name: str) -> bool:
    return bool(name) and len(name) <= MOST_ID_CHARS and name.isprintable()


async def _described(server: _Server, listed: Listed, parent: str | None) -> ServedModel:
    model = ServedModel(listed.id, parent)
    model = _with_context(model, listed.claimed_context)
    if listed.owned_by == "vllm":
        return await _vllm(server, model, listed.root)
    if listed.owned_by == "llamacpp":
        return await _llama(server, model, listed.meta)
    shown = await server.own("POST", "/api/show", {"model": model.id})
    if "model_info" in shown:
        return await _ollama(server, model, shown)
    return _note(model, "its server does not tell what it can do, nor its size")


def _note(model: ServedModel, text: str) -> ServedModel:
    return replace(model, notes=(*model.notes, text))


def _with_context(model: ServedModel, claim: object) -> ServedModel:
    if claim is None:
        return model
    if isinstance(claim, int) and not isinstance(claim, bool) and 0 < claim <= MOST_TOKENS:
        return replace(model, context_window=claim)
    shown = repr(claim)[:_SHOWN_CHARS]
    return _note(model, f"claims a context of {shown} tokens, which is not believed")


async def _vllm(server: _Server, model: ServedModel, root: object) -> ServedModel:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    message = {"role": "user", "content": "Say yes."}
    body = {"model": model.id, "messages": [message], "max_tokens": 1, "tools": [tool]}
    able: tuple[Capability, ...] = ("tools", "json_schema")
    refusal = await server.refusal(body)
    if refusal is not None:
        able = ("json_schema",)
        model = _note(model, f"no tools, see --enable-auto-tool-choice of vllm serve: {refusal}")
    model = replace(model, capabilities=able, continuation="continue_final_message")
    return model if model.parent else await _with_sizes(model, root)


async def _with_sizes(model: ServedModel, source: object) -> ServedModel:
    """Derive the sizes from a folder, a file or a repository that the server names."""
    if not isinstance(source, str):
        return _note(model, "its server does not name its weights")
    try:
        size = await asyncio.to_thread(inspect_model, source)
    except SizeError as error:
        return _note(model, f"size unknown: {error}")
    return replace(
        model,
        total_params_b=_rounded(size.total_params_b),
        active_params_b=_rounded(size.active_params_b),
    )


def _rounded(params_b: float) -> float:
    return float(f"{params_b:.4g}")


async def _llama(server: _Server, model: ServedModel, meta: object) -> ServedModel:
    props = await server.own("GET", "/props")
    model = _with_context(model, _inside(props, "default_generation_settings", "n_ctx"))
    able: list[Capability] = ["json_schema"]
    if _inside(props, "chat_template_caps", "supports_tools") is True:
        able.append("tools")
    if _inside(props, "modalities", "vision") is True:
        able.append("vision")
    model = replace(model, capabilities=tuple(able), continuation="prefill")
    path = props.get("model_path")
    if isinstance(path, str) and path.endswith(".gguf") and Path(path).is_file():
        return await _with_sizes(model, path)
    n_params = meta.get("n_params") if isinstance(meta, dict) else None
    if isinstance(n_params, int) and n_params > 0:
        model = replace(model, total_params_b=_rounded(n_params / 1e9))
    return _note(model, "active parameters unknown: coe experts inspect FILE.gguf derives them")


async def _ollama(server: _Server, model: ServedModel, shown: dict[str, Any]) -> ServedModel:
    names = shown.get("capabilities")
    able = names if isinstance(names, list) else []
    known: tuple[Capability, ...] = ("tools", "vision")
    model = replace(
        model,
        capabilities=("json_schema", *(name for name in known if name in able)),
        continuation="prefill",
    )
    count = _inside(shown, "model_info", "general.parameter_count")
    architecture = _inside(shown, "model_info", "general.architecture")
    if isinstance(count, int) and count > 0:
        total_b = _rounded(count / 1e9)
        mixture = _inside(shown, "model_info", f"{architecture}.expert_count")
        model = replace(model, total_params_b=total_b, active_params_b=None if mixture else total_b)
    return await _ollama_context(server, model, str(shown.get("parameters", "")))


async def _ollama_context(server: _Server, model: ServedModel, parameters: str) -> ServedModel:
    """Ollama cuts longer prompts without a word: what the model could hold says nothing."""
    written = re.search(r"^num_ctx\s+(\d+)", parameters, re.MULTILINE)
    if written:
        return _with_context(model, int(written[1]))
    running = (await server.own("GET", "/api/ps")).get("models")
    for entry in running if isinstance(running, list) else ():
        if isinstance(entry, dict) and entry.get("name") == model.id:
            return _with_context(model, entry.get("context_length"))
    return _note(model, "context unknown: Ollama cuts prompts at num_ctx, which it does not tell")


def _inside(tree: Mapping[str, Any], outer: str, inner: str) -> object:
    found = tree.get(outer)
    return found.get(inner) if isinstance(found, dict) else None
