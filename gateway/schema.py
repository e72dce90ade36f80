"""The schema of ``experts.yaml``: what each key means, what it may hold, and its JSON Schema."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Capability = Literal[
    "tools", "json_schema", "vision", "audio", "embeddings", "messages", "responses"
]
Billions = Annotated[float, Field(gt=0, le=100_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
_ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/messages", "/models")
_VLLM_FLAGS_OF_OURS = {"--api-key", "--host", "--max-model-len", "--port", "--revision"}
_VLLM_FLAGS_OF_OURS |= {"--served-model-name", "--uds"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Timeouts(_Strict):
    """How long to wait for an expert, in seconds."""

    connect: Seconds = Field(2, description="Opening the connection, in seconds.")
    first_token: Seconds = Field(30, description="First byte of a streamed answer, in seconds.")
    idle: Seconds = Field(30, description="Silence within an answer that has begun, in seconds.")
    total: Seconds = Field(600, description="The whole answer, streamed or not, in seconds.")


class Runtime(_Strict):
    """How a local expert's process is run. Experts with the same weights share one process."""

    engine: Literal["llama", "vllm"] = Field(
        "llama",
        description="llama = llama.cpp; vllm = `vllm serve`, which the extra vllm installs.",
    )
    parallel: int = Field(
        4, ge=1, le=256, description="Answers generated at the same time (llama only)."
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads; null = half of the cores (llama only)."
    )
    gpu_layers: int = Field(
        0,
        ge=-1,
        description="Layers kept on a GPU; -1 = all. Needs a GPU build of xllamacpp (llama only).",
    )
    args: tuple[str | int | float, ...] = Field(
        (),
        strict=False,
        description="Further arguments of `vllm serve`, e.g. --enforce-eager (vllm only).",
    )

    @model_validator(mode="after")
    def _fits_engine(self) -> Self:
        others = {"args"} if self.engine == "llama" else {"parallel", "threads", "gpu_layers"}
        for key in sorted(others & self.model_fields_set):
            raise ValueError(f"must not hold {key} with engine {self.engine}. Remove it")
        for arg in self.args:
            flag = str(arg).partition("=")[0].replace("_", "-")
            if flag in _VLLM_FLAGS_OF_OURS:
                raise ValueError(f"must not hold {flag} in args: the gateway sets it. Remove it")
        return self


class ExpertConfig(_Strict):
    """One expert: a served model, or a domain prompt over one that others share."""

    name: Name = Field(description="Unique name; clients pin the expert by `model: <name>`.")
    description: str = Field("", description="What it is good at, in a few words.")
    backend: Literal["openai", "local", "litellm"] = Field(
        description="openai = any OpenAI-compatible URL; local = a process the gateway runs; "
        "litellm = any other provider, through LiteLLM."
    )
    base_url: str | None = Field(
        None,
        description="Address up to and with /v1, e.g. http://vllm-math:8000/v1. litellm: null = "
        "the provider's own. local: none.",
    )
    model: str = Field(
        min_length=1,
        description="openai: the name the server knows the model by. litellm: with its provider, "
        "e.g. anthropic/claude-sonnet-4-5. local: "
        "embedded:smollm2-135m-instruct, a path to a .gguf file, or hf:OWNER/REPO/FILE.gguf; with "
        "engine vllm a path to a folder with config.json, or hf:OWNER/REPO@REVISION.",
    )
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the key; null = no key. The "
        "gateway's own, COE_* and REDIS_URL, are never sent to an expert.",
    )
    active_params_b: Billions | None = Field(
        None, description="10^9 parameters used per token; null = unknown, reported as such."
    )
    total_params_b: Billions | None = Field(
        None, description="10^9 parameters resident in memory; null = unknown."
    )
    latency_s: Seconds | None = Field(
        None, description="Seconds that an answer takes, for `coe map --price-of latency`."
    )
    usd_per_million_tokens: Annotated[float, Field(gt=0)] | None = Field(
        None, description="US dollars for 10^6 tokens, for `coe map --price-of money`."
    )
    weights: Name | None = Field(
        None, description="Experts that name the same weights share them; null = its own."
    )
    context_window: int | None = Field(
        None, ge=1, description="Tokens of prompt and answer together; null = unknown, not checked."
    )
    capabilities: tuple[Capability, ...] = Field(
        (), strict=False, description="What it can do besides text."
    )
    continuation: Literal["prefill", "continue_final_message"] | None = Field(
        None,
        description="How it continues an answer that another expert began: prefill = from a last "
        "message of the assistant (llama.cpp, some providers); continue_final_message = vLLM; "
        "null = it cannot.",
    )
    max_concurrency: int | None = Field(
        None, ge=1, description="Most calls at the same time, for each worker; null = no limit."
    )
    max_queue: int = Field(
        100, ge=0, description="Most calls that wait for a place; further ones get 429 at once."
    )
    max_retries: int = Field(
        2, ge=0, le=10, description="Further rounds when it, and the fallbacks after it, failed."
    )
    open_after_failures: int | None = Field(
        3, ge=1, description="Failures in a row after which it rests; null = it never does."
    )
    system_prompt: str | None = Field(
        None, description="Put in front of every conversation; null = none."
    )
    cache: bool = Field(
        False,
        description="Whether complete answers are kept for a while and given again to an equal "
        "request of the same tenant; a request decides for itself by its field `cache`.",
    )
    explore_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="Share of the prompts that fit its description on which it is tried out, "
        "whatever the mapping says of it; 0 = never.",
    )
    timeout_s: Timeouts = Field(Timeouts(), description="How long to wait for it, in seconds.")
    runtime: Runtime = Field(Runtime(), description="How its process is run (local only).")

    @model_validator(mode="after")
    def _has_a_domain(self) -> Self:
        if self.explore_share and not self.description.strip():
            raise ValueError("must have a description: explore_share goes by it. Write one")
        return self

    @field_validator("api_key_env")
    @classmethod
    def _is_not_our_own(cls, value: str | None) -> str | None:
        if value is not None and (value.upper().startswith("COE_") or value.upper() == "REDIS_URL"):
            raise ValueError("must not be a variable of the gateway itself, COE_* or REDIS_URL")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _is_http(value):
            rest = (value.partition("://")[2] or value).strip("/")
            hint = rest if "/" in rest else f"{rest}/v1"
            raise ValueError(f"must be an http(s) URL. Write http://{hint}")
        parts = urlsplit(value)
        if "@" in parts.netloc or any(c.isspace() for c in value):
            raise ValueError("must hold no spaces and no user:password. Use api_key_env for a key")
        if parts.query or parts.fragment:
            raise ValueError("must end with its path, such as /v1. Remove what follows it")
        for endpoint in _ENDPOINTS:
            if parts.path.rstrip("/").endswith(endpoint):
                raise ValueError(f"must end before {endpoint}. Remove that")
        return value.rstrip("/")


class LlmRouterConfig(_Strict):
    """An expert that is asked for the category first; `router` answers when it does not."""

    expert: Name = Field(description="The expert that is asked.")
    method: Literal["logprobs", "json_schema"] = Field(
        "logprobs",
        description="logprobs = probabilities from one token, at most 20 categories; json_schema = "
        "for servers without logprobs.",
    )
    timeout_s: Seconds = Field(5, description="Longest wait for its answer, in seconds.")


class MappingTable(_Strict):
    """Expected scores that the mapping is chosen by, and what parameters may cost."""

    table: str = Field(
        min_length=1, description="File that `coe map --write` wrote, relative to this file."
    )
    presets: dict[Name, Annotated[float, Field(ge=0)]] = Field(
        description="Preset -> price in score per 10^9 active parameters, or per what else "
        "`coe map --price-of` named. `model: auto` takes `default`, `model: auto:<preset>` another."
    )

    @field_validator("presets")
    @classmethod
    def _has_default(cls, value: dict[str, float]) -> dict[str, float]:
        if "default" not in value:
            raise ValueError("must have the preset default, which `model: auto` takes")
        return value


WrittenRanks = dict[str, Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]]
TABLE_FORM, RANKS_FORM = "<table>", "<ranks>"
"""Marks of the two forms of `mapping` in the places of pydantic's errors."""


def _mapping_form(value: object) -> str:
    is_table = isinstance(value, dict) and not value.keys().isdisjoint(MappingTable.model_fields)
    return TABLE_FORM if is_table or isinstance(value, MappingTable) else RANKS_FORM


class ExpertsFile(_Strict):
    """The whole of ``experts.yaml``."""

    version: Literal[1] = Field(description="Version of this format.")
    router: str = Field(
        "routers/default",
        min_length=1,
        description="Folder of a trained router, relative to this file; routers/default ships.",
    )
    llm_router: LlmRouterConfig | None = Field(
        None, description="An expert that is asked for the category first; null = none."
    )
    keywords: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] = Field(
        {},
        description="Category -> phrases, or /expressions/ in RE2's syntax, that decide for it.",
    )
    min_confidence: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto",
        description="A prompt goes to `general` when the most probable category leads it by less; "
        "auto = the threshold that was calibrated when the router was trained.",
    )

    background: Literal["cheapest", "route"] = Field(
        "cheapest",
        description="Where calls of chat front ends for titles, tags and follow-ups go: cheapest = "
        "to the expert with the fewest active parameters; route = like any other.",
    )
    general: Name = Field(description="The expert for uncertain prompts, and the last fallback.")
    experts: tuple[ExpertConfig, ...] = Field(min_length=1, strict=False)
    mapping: Annotated[
        Annotated[MappingTable, Tag(TABLE_FORM)] | Annotated[WrittenRanks, Tag(RANKS_FORM)],
        Discriminator(_mapping_form),
    ] = Field(
        description="Category -> experts, best first; a category left out goes to `general`. Or "
        "the table and the presets that `coe map --write` writes."
    )

    _lines: dict[str, int] = PrivateAttr(default_factory=dict)

    @property
    def lines(self) -> dict[str, int]:
        """Keys that only a trained router can judge, such as ``mapping.law`` -> their lines.

        Empty where the file was not read from YAML.
        """
        return self._lines

    @field_validator("min_confidence", mode="before")
    @classmethod
    def _is_probability(cls, value: object) -> object:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value == "auto" or (number and 0 <= value <= 1):  # type: ignore[operator]
            return value
        raise ValueError("must be auto or a number from 0 to 1")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a broken port or IPv6 address
        return False


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``experts.yaml``, for editors."""
    schema = ExpertsFile.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "experts.yaml",
        **{key: value for key, value in schema.items() if key != "title"},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
