"""Settings of one gateway: environment variables and command-line flags, nothing else."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from gateway.errors import ConfigError

_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


class Settings(BaseSettings):
    """Settings; each is read from ``COE_<NAME>``, `redis_url` also from ``REDIS_URL``.

    Those that are not set are looked for in the folder that ``COE_SECRETS_DIR`` names: the file
    ``coe_api_key`` holds `api_key`, and so on.
    """

    model_config = SettingsConfigDict(
        env_prefix="COE_", env_ignore_empty=True, frozen=True, populate_by_name=True
    )

    config: Path = Path("experts.yaml")
    """The expert registry."""
    host: str = "127.0.0.1"
    """Address to listen on. Any but a loopback address needs `api_key` or `require_keys`."""
    port: int = Field(default=8080, ge=0, le=65535)
    """TCP port to listen on; 0 picks a free one."""
    workers: int = Field(default=1, ge=1, le=256)
    """Worker processes; they share the local experts and the cache."""
    redis_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("COE_REDIS_URL", "REDIS_URL")
    )
    """Redis or Valkey, e.g. ``redis://host:6379/0``; None starts the embedded Valkey."""
    redis_timeout_ms: int = Field(default=50, ge=1)
    """Longest wait for the cache, in milliseconds; past it a request goes on without."""
    choice_ttl_s: int = Field(default=86_400, ge=1)
    """How long a routing choice stays cached, in seconds."""
    answer_ttl_s: int = Field(default=3600, ge=1)
    """How long an answer that may be given again stays cached, in seconds."""
    api_key: SecretStr | None = None
    """Key that clients send as ``Authorization: Bearer``; keys of `coe keys` are as good."""
    require_keys: bool = False
    """Whether clients need a key also when `api_key` is not set: one of `coe keys`."""
    admin_key: SecretStr | None = None
    """Key of ``/admin``; None admits callers from a loopback address only."""
    max_body_mb: int = Field(default=32, ge=1)
    """Largest request body, in 10^6 bytes."""
    max_in_flight: int = Field(default=1024, ge=1)
    """Requests under way in one worker; more are refused with 503."""
    max_in_flight_mb: int = Field(default=256, ge=1)
    """What their bodies may hold, in 10^6 bytes, and `max_body_mb` at least; more gets 503."""
    client_timeout_s: float = Field(default=30, gt=0)
    """How long a client may take to send a request or to read what was written, in seconds."""
    drain_timeout_s: int = Field(default=30, ge=0)
    """How long a stop waits for open answers, in seconds."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    run_dir: Path | None = None
    """Folder for sockets and process state, set by the supervisor; None outside of it."""

    @field_validator("api_key", "admin_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr | None) -> SecretStr | None:
        """Refuse what every client would have: an empty file of secrets must not let all in."""
        if key is not None and not key.get_secret_value().strip():
            raise ValueError("Value should hold a key; an empty one would admit everybody")
        return key

    @property
    def needs_key(self) -> bool:
        """Whether clients are let in with a key only."""
        return self.require_keys or self.api_key is not None

    def check_redis_url(self) -> None:
        """Refuse a URL that is none of Redis.

        Raises
        ------
        ConfigError
            It does not repeat the URL, which may hold a password.
        """
        url = self.redis_url
        if url is not None and not url.get_secret_value().startswith(_REDIS_SCHEMES):
            raise ConfigError(
                f"REDIS_URL must begin with {', '.join(_REDIS_SCHEMES)}; it does not. "
                "Correct it, or unset it to use the embedded cache"
            )

    def check_exposure(self) -> None:
        """Refuse to serve strangers without a key.

        Raises
        ------
        ConfigError
            When `host` is not a loopback address and clients need no key.
        """
        if not self.needs_key and not is_loopback(self.host):
            raise ConfigError(
                f"host must be a loopback address while clients need no key; got {self.host!r}. "
                "Set COE_API_KEY, or COE_REQUIRE_KEYS and make keys with coe keys create, "
                "or serve on 127.0.0.1"
            )


def load_settings(**flags: object) -> Settings:
    """Read the environment, with the command-line flags that are not None on top.

    Raises
    ------
    ConfigError
        When a value is out of its range, or there is no folder of secrets.
    """
    folder = os.environ.get("COE_SECRETS_DIR") or None
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(
            f"COE_SECRETS_DIR must name a folder of secrets; got {folder!r}. Correct or unset it"
        )
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(_secrets_dir=folder, **given)  # type: ignore[arg-type]
    except ValidationError as error:
        places = "a flag" if folder is None else f"a flag, or a file in {folder}"
        lines = [
            f"{name} (COE_{name.upper()} or {places}) must {_allowed(item)}; got {item['input']!r}"
            for item in error.errors()
            for name in (str(item["loc"][0]),)
        ]
        raise ConfigError("\n".join(lines)) from error
    except (SettingsError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"COE_SECRETS_DIR must name a folder of text files that can be read; {error}"
        ) from error


def _allowed(item: ErrorDetails) -> str:
    return item["msg"].partition("should ")[2].partition(", unable")[0]


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
