"""The Dockerfile, docker-compose.yml and the experts files that they run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.composition import check
from gateway.experts import Expert, ExpertRegistry
from tests.replay_dockerfile import instructions
from tests.servers import REPO

COMPOSE = YAML(typ="safe").load(REPO / "docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROFILES = ("cpu", "gpu")


def of_profile(profile: str) -> dict[str, dict[str, Any]]:
    return {name: it for name, it in SERVICES.items() if profile in it["profiles"]}


def gateway_of(profile: str) -> dict[str, Any]:
    return next(it for it in of_profile(profile).values() if "build" in it)


def registry_of(profile: str) -> ExpertRegistry:
    config = Path(gateway_of(profile)["environment"]["COE_CONFIG"])
    assert gateway_of(profile)["volumes"] == [f"./deploy:{config.parent}:ro"]
    return ExpertRegistry.load(REPO / "deploy" / config.name)


def server_of(expert: Expert) -> dict[str, Any]:
    """Return the service that an expert's base_url leads to."""
    found = re.fullmatch(r"http://([a-z-]+):(\d+)/v1", expert.base_url or "")
    assert found
    return SERVICES[found[1]]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_experts_are_valid_and_each_has_its_server(profile: str) -> None:
    registry = registry_of(profile)
    check(registry)
    servers = [server_of(expert) for expert in registry.values()]
    others = [it for it in of_profile(profile).values() if "build" not in it]
    assert all(server in others for server in servers)
    assert len(others) == len(servers) + 1  # redis


def test_llama_serves_what_its_experts_say() -> None:
    for expert in registry_of("cpu").values():
        environ = server_of(expert)["environment"]
        assert environ["LLAMA_ARG_ALIAS"] == expert.model
        assert expert.max_concurrency == int(environ["LLAMA_ARG_N_PARALLEL"])
        window = int(environ["LLAMA_ARG_CTX_SIZE"]) // int(environ["LLAMA_ARG_N_PARALLEL"])
        assert expert.context_window == window
        assert re.search(r"/resolve/[0-9a-f]{40}/", environ["LLAMA_ARG_MODEL_URL"])


def test_vllm_serves_what_its_experts_say() -> None:
    for expert in registry_of("gpu").values():
        flags = dict(re.findall(r"--([a-z-]+)=?(\S*)", " ".join(server_of(expert)["command"])))
        assert flags["model"] == expert.model
        assert re.fullmatch(r"[0-9a-f]{40}", flags["revision"])
        assert int(flags["max-model-len"]) == expert.context_window
        assert ("enable-auto-tool-choice" in flags) == ("tools" in expert.capabilities)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_bounded_and_without_privileges(name: str) -> None:
    service = SERVICES[name]
    assert {"healthcheck", "restart"} <= service.keys()
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert "memory" in service["deploy"]["resources"]["limits"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not any("docker.sock" in volume for volume in service["volumes"])
    assert re.search(r":(server-b|v)?\d[\d.]*$", service["image"]), "pin it by its version"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_gateway_is_not_root_and_reads_its_keys_from_files(profile: str) -> None:
    gateway = gateway_of(profile)
    assert gateway["read_only"] is True
    assert gateway["user"] == "10001:10001"
    assert gateway["environment"]["COE_SECRETS_DIR"] == "/run/secrets"
    assert set(gateway["secrets"]) == COMPOSE["secrets"].keys()
    assert not {"COE_API_KEY", "COE_ADMIN_KEY"} & gateway["environment"].keys()
    assert gateway["ports"] == ["${COE_PUBLISH:-127.0.0.1:8080}:8080"]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_gateway_waits_for_redis_and_the_general_expert(profile: str) -> None:
    awaited = gateway_of(profile)["depends_on"]
    assert awaited.keys() < of_profile(profile).keys()
    general = server_of(registry_of(profile).general)
    healthy = [name for name, how in awaited.items() if how["condition"] == "service_healthy"]
    assert [SERVICES[name] for name in healthy] == [SERVICES["redis"], general]


def test_the_image_is_pinned_not_root_and_holds_what_it_copies() -> None:
    steps = instructions(REPO / "Dockerfile")
    base = next(rest for word, rest in steps if word == "ARG")
    assert re.fullmatch(r"PYTHON=python:3\.\d+\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert [rest for word, rest in steps if word == "USER"] == ["10001:10001"]
    kept = (REPO / ".dockerignore").read_text().splitlines()
    assert "*" in kept
    for sources in [rest.split()[:-1] for word, rest in steps if word == "COPY"]:
        for source in sources if "--from" not in sources[0] else ():
            assert (REPO / source).exists()
            assert f"!{source}" in kept
