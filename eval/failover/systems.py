"""Gateways that the command starts itself, each with the best failover it documents.

All get the same limits: 2 s for the first token and for silence, then the healthy upstream. None
is told to retry: that only delays a fallback, for litellm by as long as Retry-After says. README.md
beside this file says how to point any other gateway at the upstreams.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from secrets import token_hex
from shutil import which
from typing import Any

from eval.failover.client import Target
from eval.failover.processes import FailoverError, Upstream, gateway
from eval.failover.wire import FAULTY, HEALTHY
from routers.artifact import read_card

SYSTEMS = ("coe", "litellm", "portkey")
TIMEOUT_S = 2
TOTAL_S = 6
"""Ours for a whole answer; the others have one limit for both."""
REPO = Path(__file__).parents[2]


@asynccontextmanager
async def running(
    system: str, ups: Mapping[str, Upstream], folder: Path, rivals: Path
) -> AsyncIterator[Target]:
    """Run one of `SYSTEMS` until the block ends.

    Parameters
    ----------
    ups : mapping of str to Upstream
        Running.
    folder : Path
        For its configuration and its log.
    rivals : Path
        Where ``make rivals`` has installed the others.
    """
    prepare = {"coe": _coe, "litellm": _litellm, "portkey": _portkey}[system]
    command, target, probe_url = prepare(ups, folder, rivals)
    if not Path(command[0]).exists():
        raise FailoverError(f"{system} must be installed at {command[0]}; it is not: make rivals")
    async with gateway(command, environ(), probe_url, folder):
        yield target


def environ(**more: str) -> dict[str, str]:
    """Return the environment of a gateway: ours without our own settings, and `more`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("COE_")}
    return {**ours, **more}


def coe_config(ups: Mapping[str, Upstream], **keys: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return our experts file: every prompt goes to the faulty expert, then to the healthy one.

    Parameters
    ----------
    **keys
        Further keys of both experts.
    """
    expert = {
        "backend": "openai",
        "max_retries": 0,
        "continuation": "prefill",
        "timeout_s": {"connect": 1, "first_token": TIMEOUT_S, "idle": TIMEOUT_S, "total": TOTAL_S},
        **keys,
    }
    experts = [
        {"name": role, "base_url": ups[role].url, "model": role, **expert}
        for role in (FAULTY, HEALTHY)
    ]
    categories = read_card(REPO / "routers/default").categories
    mapping = {name: [FAULTY, HEALTHY] for name in categories}
    return {"version": 1, "general": FAULTY, "experts": experts, "mapping": mapping}


def _coe(ups: Mapping[str, Upstream], folder: Path, _: Path) -> tuple[list[str], Target, str]:
    return coe_command(ups, folder)


def coe_command(
    ups: Mapping[str, Upstream],
    folder: Path,
    workers: int = 1,
    **keys: Any,  # noqa: ANN401
) -> tuple[list[str], Target, str]:
    """Return how this gateway is started, how it is asked, and what answers once it is ready.

    Parameters
    ----------
    **keys
        Further keys of both experts.
    """
    config = folder / "experts.yaml"
    config.write_text(json.dumps(coe_config(ups, **keys)), encoding="utf-8")  # JSON is YAML
    port = _free_port()
    flags = ["--config", str(config), "--workers", str(workers), "--port", str(port)]
    target = Target(f"coe {version('coe-gateway')}", _url(port), "auto")
    command = [sys.executable, "-m", "gateway", "serve", *flags]
    return command, target, f"http://127.0.0.1:{port}/readyz"


def _litellm(
    ups: Mapping[str, Upstream], folder: Path, rivals: Path
) -> tuple[list[str], Target, str]:
    """Return the proxy with fallbacks and cool-down as its reliability page says."""
    shared = {"api_key": "unused", "timeout": TIMEOUT_S, "stream_timeout": TIMEOUT_S}
    models = [
        {
            "model_name": role,
            "litellm_params": {"model": f"openai/{role}", "api_base": ups[role].url, **shared},
        }
        for role in (FAULTY, HEALTHY)
    ]
    fallbacks = [{FAULTY: [HEALTHY]}]
    settings = {
        "num_retries": 0,
        "fallbacks": fallbacks,
        "context_window_fallbacks": fallbacks,
        "allowed_fails": 3,
        "cooldown_time": 2,
    }
    config = folder / "litellm.yaml"
    key = f"sk-{token_hex(16)}"  # it does not start without one
    general = {"master_key": key}
    tree = {"model_list": models, "router_settings": settings, "general_settings": general}
    config.write_text(json.dumps(tree), encoding="utf-8")
    port = _free_port()
    flags = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    headers = {"authorization": f"Bearer {key}"}
    target = Target(f"litellm {_litellm_version(rivals)}", _url(port), FAULTY, headers)
    command = [str(rivals / "venv/bin/litellm"), *flags]
    return command, target, f"http://127.0.0.1:{port}/health/liveliness"


def _litellm_version(rivals: Path) -> str:
    found = sorted(rivals.glob("venv/lib/python*/site-packages/litellm-*.dist-info"))
    return found[0].name.split("-")[1].removesuffix(".dist") if found else "?"


def _portkey(ups: Mapping[str, Upstream], _: Path, rivals: Path) -> tuple[list[str], Target, str]:
    """Return the gateway with a config header that says fallback and timeout."""
    targets = [
        {
            "provider": "openai",
            "api_key": "unused",
            "custom_host": ups[role].url,
            "override_params": {"model": role},
            "request_timeout": 1_000 * TIMEOUT_S,
        }
        for role in (FAULTY, HEALTHY)
    ]
    config = {"strategy": {"mode": "fallback"}, "targets": targets}
    package = rivals / "node_modules/@portkey-ai/gateway"
    if not package.exists():
        raise FailoverError(f"portkey must be installed at {package}; it is not: make rivals")
    name = f"Portkey {json.loads((package / 'package.json').read_text())['version']}"
    port = _free_port()
    target = Target(name, _url(port), FAULTY, {"x-portkey-config": json.dumps(config)})
    script = str(package / "build/start-server.js")
    command = [which("node") or "node", script, "--headless", f"--port={port}"]
    return command, target, f"http://127.0.0.1:{port}/"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"
