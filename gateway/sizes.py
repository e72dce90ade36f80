"""Total and active parameters of a model, derived from its ``config.json`` or its GGUF header.

Active is what one token passes through: everything but the routed experts it is not sent to. The
embedding counts whole, as in the sizes that most model cards publish.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from gateway.gguf import GgufError, read_gguf_sizes

CONFIG_FILE = "config.json"
REACH_TIMEOUT_S = 3.0


class SizeError(ValueError):
    """The size of a model cannot be derived; the message says why."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """How large a model is.

    Attributes
    ----------
    total_params_b : float
        10^9 parameters resident.
    active_params_b : float
        10^9 parameters used for one token.
    architecture : str
        The model type that ``config.json`` or the GGUF header names.
    """

    total_params_b: float
    active_params_b: float
    architecture: str


@dataclass(frozen=True, slots=True)
class _Family:
    """How a model type departs from Llama: what its configuration does not say.

    Attributes
    ----------
    tied : bool
        Whether input and output embeddings are shared where the configuration is silent.
    norms_per_layer : int
        Vectors of hidden size per layer.
    qkv_bias : bool
        Whether query, key and value have a bias although `attention_bias` is not set.
    qk_norm : {"", "head", "row"}
        Whether queries and keys are normalised: by head, or by whole row.
    mla : bool
        Multi-head latent attention (arXiv 2405.04434).
    expert_bias : bool
        Whether the experts and their router have biases, and attention its sinks.
    """

    tied: bool = False
    norms_per_layer: int = 2
    qkv_bias: bool = False
    qk_norm: str = ""
    mla: bool = False
    expert_bias: bool = False


_FAMILIES = {
    "llama": _Family(),
    "mistral": _Family(),
    "ministral3": _Family(),
    "phi3": _Family(),
    "internlm2": _Family(),
    "cohere": _Family(tied=True, norms_per_layer=1),
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family(qk_norm="head"),
    "gemma": _Family(tied=True),
    "gemma2": _Family(tied=True, norms_per_layer=4),
    "gemma3_text": _Family(tied=True, norms_per_layer=4, qk_norm="head"),
    "mixtral": _Family(),
    "qwen2_moe": _Family(qkv_bias=True),
    "qwen3_moe": _Family(qk_norm="head"),
    "olmoe": _Family(qk_norm="row"),
    "deepseek": _Family(),
    "deepseek_v2": _Family(mla=True),
    "deepseek_v3": _Family(mla=True),
    "gpt_oss": _Family(expert_bias=True),
    "llama4_text": _Family(),
}


def inspect_model(source: str) -> ModelSize:
    """Derive the size of a model.

    Parameters
    ----------
    source : str
        A ``.gguf`` file, a ``config.json`` or a folder that holds one, or a Hugging Face
        repository as ``OWNER/NAME``, of which the ``config.json`` is fetched.

    Raises
    ------
    SizeError
        There is no such model, or its size cannot be derived.
    """
    path = Path(source)
    if path.suffix == ".gguf":
        return _gguf_size(path)
    if path.is_dir():
        path = path / CONFIG_FILE
    elif not path.exists():
        path = _fetched(source)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or error
        raise SizeError(f"{path} must be a readable {CONFIG_FILE}; got {got}") from error
    return config_size(config, str(path))


def config_size(config: Mapping[str, Any], name: str = CONFIG_FILE) -> ModelSize:
    """Derive the size of a model from its ``config.json``.

    Of a model that sees or hears the language model alone is counted.

    Parameters
    ----------
    config : mapping
        What the file holds.
    name : str
        What to call it in errors.

    Raises
    ------
    SizeError
        The model type is not known here, or a key is missing.
    """
    if not isinstance(config, Mapping):
        raise SizeError(f"{name} must hold a JSON object; got {type(config).__name__}")
    text = {**config, **(config.get("text_config") or {})}
    model_type = str(text.get("model_type", ""))
    family = _FAMILIES.get(model_type)
    if family is None:
        raise SizeError(
            f"{name}: model_type must be one of {', '.join(_FAMILIES)}; got {model_type!r}. "
            "Write active_params_b and total_params_b into experts.yaml by hand"
        )
    try:
        total, idle = _count(text, family, model_type)
    except KeyError as error:
        raise SizeError(f"{name}: {error.args[0]} is missing; a {model_type} needs it") from error
    except TypeError as error:
        raise SizeError(f"{name}: a size is not a number: {error}") from error
    return ModelSize(total / 1e9, (total - idle) / 1e9, model_type)


def _count(config: Mapping[str, Any], family: _Family, model_type: str) -> tuple[int, int]:
    """Return the parameters of a model, and those of them that a token does not use."""
    hidden, n_layers = config["hidden_size"], config["num_hidden_layers"]
    tied = config.get("tie_word_embeddings", family.tied)
    total = config["vocab_size"] * hidden * (1 if tied else 2) + hidden
    attention = _latent_attention(config) if family.mla else _attention(config, family)
    total += n_layers * (attention + family.norms_per_layer * hidden)
    n_moe = sum(_is_moe_layer(config, model_type, layer) for layer in range(n_layers))
    dense_width = config.get("intermediate_size_mlp") or config.get("intermediate_size", 0)
    total += (n_layers - n_moe) * 3 * hidden * dense_width
    if not n_moe:
        return total, 0
    n_experts = _n_experts(config)
    expert = _expert(config, family)
    always = hidden * n_experts + _shared_expert(config, model_type)
    always += n_experts if family.expert_bias or model_type == "deepseek_v3" else 0
    total += n_moe * (n_experts * expert + always)
    return total, n_moe * (n_experts - config["num_experts_per_tok"]) * expert


def _attention(config: Mapping[str, Any], family: _Family) -> int:
    """Parameters of grouped-query attention in one layer."""
    hidden, n_heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // n_heads
    queries = n_heads * head
    keys = (config.get("num_key_value_heads") or n_heads) * head
    count = hidden * (2 * queries + 2 * keys)
    if family.qkv_bias or config.get("attention_bias"):
        count += queries + 2 * keys
    if config.get("attention_bias"):
        count += hidden
    if family.qk_norm:
        count += 2 * head if family.qk_norm == "head" else queries + keys
    return int(count + (n_heads if family.expert_bias else 0))


def _latent_attention(config: Mapping[str, Any]) -> int:
    """Parameters of multi-head latent attention in one layer (arXiv 2405.04434)."""
    hidden, n_heads = config["hidden_size"], config["num_attention_heads"]
    plain, rotary = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    value, kv_rank, q_rank = config["v_head_dim"], config["kv_lora_rank"], config.get("q_lora_rank")
    queries = n_heads * (plain + rotary)
    count = hidden * q_rank + q_rank + q_rank * queries if q_rank else hidden * queries
    count += hidden * (kv_rank + rotary) + kv_rank + kv_rank * n_heads * (plain + value)
    return int(count + n_heads * value * hidden)


def _n_experts(config: Mapping[str, Any]) -> int:
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if config.get(key):
            return int(config[key])
    return 0


def _is_moe_layer(config: Mapping[str, Any], model_type: str, layer: int) -> bool:
    """Whether a layer has routed experts; `layer` counts from 0."""
    if not _n_experts(config):
        return False
    if model_type.startswith("deepseek"):
        first, step = config["first_k_dense_replace"], config.get("moe_layer_freq", 1)
        return bool(layer >= first and layer % step == 0)
    if layer in (config.get("mlp_only_layers") or ()):
        return False
    step = config.get("decoder_sparse_step") or config.get("interleave_moe_layer_step") or 1
    return bool((layer + 1) % step == 0)


def _expert(config: Mapping[str, Any], family: _Family) -> int:
    """Parameters of one routed expert."""
    hidden = config["hidden_size"]
    width = config.get("moe_intermediate_size") or config["intermediate_size"]
    return int(3 * hidden * width + (2 * width + hidden if family.expert_bias else 0))


def _shared_expert(config: Mapping[str, Any], model_type: str) -> int:
    """Parameters of what stands beside the routed experts of a layer and every token uses."""
    hidden = config["hidden_size"]
    if model_type == "qwen2_moe":
        return int(3 * hidden * config["shared_expert_intermediate_size"] + hidden)
    if model_type == "llama4_text":
        return int(3 * hidden * config["intermediate_size"])
    n_shared = config.get("n_shared_experts") or 0
    return int(3 * hidden * config.get("moe_intermediate_size", 0) * n_shared)


def _gguf_size(path: Path) -> ModelSize:
    try:
        total, active, architecture = read_gguf_sizes(path)
    except (OSError, GgufError) as error:
        got = getattr(error, "strerror", None) or error
        raise SizeError(f"{path} must be a readable GGUF file; got {got}") from error
    return ModelSize(total / 1e9, active / 1e9, architecture)


def _fetched(repository: str) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        kept = try_to_load_from_cache(repository, CONFIG_FILE)
        if isinstance(kept, str):
            return Path(kept)
        _reach(constants.ENDPOINT)
        return Path(hf_hub_download(repository, CONFIG_FILE))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise SizeError(
            f"{repository} is neither a file nor a folder, and cannot be fetched from Hugging Face:"
            f" {error}. Name a {CONFIG_FILE}, a .gguf file or OWNER/NAME"
        ) from error


def _reach(url: str) -> None:
    """Raise `OSError` at once where nobody answers: the hub's client tries for half a minute."""
    parts = urlsplit(url)
    if not getproxies() and parts.hostname is not None:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname, port), REACH_TIMEOUT_S).close()
