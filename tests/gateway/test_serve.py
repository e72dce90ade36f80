"""What `serve` and `create_app` refuse before anything is started."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from gateway.app import create_app
from gateway.errors import ConfigError
from gateway.serve import serve
from gateway.settings import is_loopback, load_settings
from tests.servers import NOBODY_URL, REPO, write_experts


def refused(config: Path, message: str, **flags: Any) -> None:
    said: list[str] = []
    with pytest.raises(ConfigError, match=message):
        serve(load_settings(config=config, **flags), said.append)
    assert said == []


def one_expert(tmp_path: Path, mapping: dict[str, list[str]] | None = None, **keys: Any) -> Path:
    expert = {"name": "only", "base_url": NOBODY_URL}
    return write_experts(tmp_path / "experts.yaml", [expert], mapping or {}, **keys)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "PORT",
            "99999",
            "port (COE_PORT or a flag) must be less than or equal to 65535; got '99999'",
        ),
        ("PORT", "abc", "port (COE_PORT or a flag) must be a valid integer; got 'abc'"),
        ("LOG_LEVEL", "loud", "log_level (COE_LOG_LEVEL or a flag) must be 'DEBUG', 'INFO', "),
    ],
)
def test_a_setting_that_cannot_be_is_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"COE_{name}", value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert message in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_refused(tmp_path: Path, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        message = f"cannot listen on {host}:{port}: another process does. Stop it, .* --port"
        refused(one_expert(tmp_path), message, host=host, port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_strangers_are_not_served_without_a_key(tmp_path: Path, host: str) -> None:
    message = f"host must be a loopback address while clients need no key; got '{host}'.*COE_API"
    refused(one_expert(tmp_path), message, host=host)


def test_a_category_that_the_router_does_not_have_is_refused(tmp_path: Path) -> None:
    config = one_expert(tmp_path, {"codin": ["only"]})
    (line,) = (n for n, text in enumerate(config.read_text().splitlines(), 1) if "codin" in text)
    message = rf"experts.yaml:{line}: mapping.codin must be a category of the router; got 'codin'."
    refused(config, message)


def test_keywords_of_a_category_that_the_router_does_not_have_are_refused(tmp_path: Path) -> None:
    config = one_expert(tmp_path, keywords={"codin": ["segfault"]})
    refused(config, r"experts.yaml:\d+: keywords.codin: must be a category of router 'default'")


def test_a_missing_router_is_refused(tmp_path: Path) -> None:
    refused(one_expert(tmp_path, router="nowhere"), r"experts\.yaml:\d+: router: ")


def test_a_broken_experts_file_is_refused(tmp_path: Path) -> None:
    message = r"experts\.yaml:1: general must name an expert; got 'all'"
    refused(one_expert(tmp_path, general="all"), message)


def test_a_worker_does_not_run_alone() -> None:
    with pytest.raises(ConfigError, match=r"run_dir must be set\. Start the gateway with"):
        create_app(load_settings(config=REPO / "experts.yaml"))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_this_machine_is_told_from_others(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_secrets_are_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "coe_api_key").write_text("from-a-file\n")
    (tmp_path / "coe_admin_key").write_text("not-taken\n")
    monkeypatch.setenv("COE_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("COE_ADMIN_KEY", "from-the-environment")
    settings = load_settings()
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "from-a-file"
    assert settings.admin_key is not None
    assert settings.admin_key.get_secret_value() == "from-the-environment"


def test_a_missing_folder_of_secrets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COE_SECRETS_DIR", "/nowhere")
    with pytest.raises(ConfigError, match="must name a folder of secrets; got '/nowhere'"):
        load_settings()


@pytest.mark.parametrize("name", ["coe_api_key", "coe_admin_key"])
@pytest.mark.parametrize("content", [b"", b" \n"])
def test_an_empty_key_admits_nobody(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setenv("COE_SECRETS_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=f"{name.upper()}.* a file in .* must hold a key"):
        load_settings()


def test_a_secret_that_is_no_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "coe_api_key").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("COE_SECRETS_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="must name a folder of text files that can be read"):
        load_settings()
