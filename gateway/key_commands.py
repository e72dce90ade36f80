"""``coe keys``: API keys of a running gateway, over its admin API."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from gateway.errors import ConfigError

TIMEOUT_S = 10

_url_option = click.option(
    "--url",
    envvar="COE_URL",
    default="http://127.0.0.1:8080",
    show_default=True,
    callback=lambda _ctx, _option, url: url.rstrip("/").removesuffix("/v1"),
    help="Where the gateway is.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def _amount(_ctx: click.Context, _option: click.Parameter, given: str | None) -> float | None:
    """Return what may be counted up to: above 0, and neither nan nor infinite."""
    if given is None:
        return None
    try:
        amount = float(given)
    except ValueError:
        amount = math.nan
    if not 0 < amount < math.inf:
        raise click.BadParameter(f"it must be a number above 0, such as 5e6; got {given!r}")
    return amount


@click.group()
def keys() -> None:
    """Make, list and revoke the API keys of a running gateway.

    COE_ADMIN_KEY in the environment is sent along; without it the gateway must be on this machine.
    Keys are kept in its REDIS_URL; in the embedded cache they last until the gateway stops.
    """


@keys.command(
    "create",
    epilog="""\b
Examples:
  coe keys create --tenant team-a
  coe keys create --tenant team-b --model auto --requests-per-min 60 --tokens-per-min 50000
  coe keys create --tenant lab --active-b-tokens-per-day 5e6 --expires-in-days 30 --json""",
)
@click.option("--tenant", required=True, help="Whose key it is; tenants share nothing.")
@click.option("--model", "models", multiple=True, help="What `model` may be; repeat. [any]")
@click.option("--requests-per-min", type=click.IntRange(1), help="Most requests. [no limit]")
@click.option("--tokens-per-min", type=click.IntRange(1), help="Most tokens. [no limit]")
@click.option(
    "--active-b-tokens-per-day",
    metavar="NUMBER",
    callback=_amount,
    help="Budget: 10^9 active parameters x tokens of prompt and answer; 1,000 tokens of a 7 B "
    "expert take 7,000. [no limit]",
)
@click.option("--expires-in-days", metavar="NUMBER", callback=_amount, help="Validity. [no limit]")
@_url_option
@_json_option
def create_key(
    url: str,
    as_json: bool,
    models: tuple[str, ...],
    expires_in_days: float | None,
    **limits: str | float | None,
) -> None:
    """Make a key. It is shown once: only its hash is kept."""
    wish: dict[str, object] = {"models": models or None, **limits}
    if expires_in_days is not None:
        wish["expires_in_s"] = expires_in_days * 86_400
    made = _call("POST", f"{url}/admin/keys", wish)
    if as_json:
        click.echo(json.dumps(made))
        return
    click.echo(made["key"])
    notes = [f"tenant {made['tenant']}, id {made['id']}; kept {made['kept']}"]
    if not made["needed"]:
        notes.append("clients need no key here; set COE_REQUIRE_KEYS=true to refuse those without")
    for note in notes:
        click.echo(f"coe: {note}", err=True)


@keys.command(
    "list",
    epilog="""\b
Examples:
  coe keys list
  coe keys list --url https://gateway.example.org --json""",
)
@_url_option
@_json_option
def list_keys(url: str, as_json: bool) -> None:
    """Show the keys, without their secrets."""
    shown = _call("GET", f"{url}/admin/keys")
    if as_json:
        click.echo(json.dumps(shown))
        return
    from rich.table import Table
    from rich.text import Text

    from gateway.tables import console_for_tables

    console = console_for_tables()
    between = "\n" if console.is_terminal else "; "
    table = Table(box=None)
    for heading in ("id", "tenant", "models", "limits"):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"id", "limits"})
    for key in shown["keys"]:
        models = ", ".join(key["models"] or ["any"])
        cells = (key["id"], key["tenant"], models, between.join(_limits(key)) or "-")
        table.add_row(*map(Text, cells))
    console.print(table)


@keys.command(
    "revoke",
    epilog="""\b
Examples:
  coe keys revoke 3f9a1c2b4d5e""",
)
@click.argument("key_id", metavar="ID")
@_url_option
@_json_option
def revoke_key(key_id: str, url: str, as_json: bool) -> None:
    """Revoke a key by its id. All replicas refuse it within 2 seconds."""
    from urllib.parse import quote

    done = _call("DELETE", f"{url}/admin/keys/{quote(key_id, safe='')}")
    click.echo(json.dumps(done) if as_json else f"revoked {key_id}")


def _limits(key: Mapping[str, Any]) -> Iterator[str]:
    """Say what a key is limited to; B is 10^9 active parameters."""
    units = {
        "requests_per_min": "requests a minute",
        "tokens_per_min": "tokens a minute",
        "active_b_tokens_per_day": "B x tokens a day",
    }
    for name, unit in units.items():
        if key[name] is not None:
            yield f"{key[name]:,.15g} {unit}"
    if (at := key["expires_at"]) is not None:
        began = "expired" if at <= time.time() else "until"
        yield time.strftime(f"{began} %Y-%m-%d %H:%M UTC", time.gmtime(at))


def _call(method: str, url: str, body: object = None) -> dict[str, Any]:
    return asyncio.run(_ask(method, url, body))


async def _ask(method: str, url: str, body: object) -> dict[str, Any]:
    """Return the gateway's answer; raises `ConfigError` with its message when it refuses."""
    import aiohttp

    from gateway.settings import load_settings

    admin_key = load_settings().admin_key
    headers = {}
    if admin_key is not None:
        headers["authorization"] = f"Bearer {admin_key.get_secret_value()}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT_S)) as session,
            session.request(method, url, json=body, headers=headers) as response,
        ):
            answer: dict[str, Any] = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        is_silent = isinstance(error, aiohttp.ClientConnectionError | TimeoutError)
        raise ConfigError(
            f"{url} must be the admin API of a running gateway; "
            f"{'nobody answers there' if is_silent else 'it is something else'}. "
            "Start it with coe serve, or name it: --url http://HOST:PORT"
        ) from error
    if "error" in answer:
        raise ConfigError(answer["error"]["message"])
    return answer
