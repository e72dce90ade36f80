"""The command line, ``coe``. Commands of the other packages are mounted by name and load late."""

from __future__ import annotations

import signal
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

import click

from gateway.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import FrameType

    from routers.base import Router

WRONG_USE = 2

_COMMANDS = {
    "serve": ("gateway.commands:serve", "Run the gateway."),
    "route": ("gateway.commands:route", "Show where a prompt would go, and why."),
    "experts": (
        "gateway.expert_commands:experts",
        "Look at the experts of a registry, try them, and edit them.",
    ),
    "keys": (
        "gateway.key_commands:keys",
        "Make, list and revoke the API keys of a running gateway.",
    ),
    "train": ("routers.cli:train", "Train a router on labelled prompts."),
    "calibrate": ("routers.cli:calibrate", "Fit the threshold of a router anew."),
    "map": (
        "gateway.mapping_commands:map_command",
        "Choose experts by their scores under a budget, exactly.",
    ),
    "eval": ("eval.cli:eval_group", "Measure routers, mappings and gateways."),
}
"""Name -> where the command is, and what its own help says of it first."""


class _Lazy(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None when there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which name is meant."""
        close = get_close_matches(args[0], _COMMANDS, n=1)
        if close and args[0] not in _COMMANDS:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="coe-gateway")
def coe() -> None:
    """Composition of Experts: one OpenAI-compatible endpoint in front of many LLMs.

    Exit codes: 0 ok, 1 falls short, 2 wrong use. `coe COMMAND --help` has examples.
    """


def open_teacher(name: str, categories: Path | None) -> AbstractContextManager[Router]:
    """Open the expert that ``coe train --distil`` names; see `gateway.teacher`."""
    from gateway.teacher import open_teacher as opened

    return opened(name, categories)


def _end(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # another one must not cut the cleaning up short
    sys.exit(128 + number)


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does: what it started and made goes too."""
    signal.signal(signal.SIGTERM, _end)
    try:
        coe(obj=open_teacher)
    except ConfigError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(WRONG_USE)
