"""The command line, ``coe``. Commands of the other packages are mounted by name and load late."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

from gateway.errors import ConfigError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from routers.base import Router

WRONG_USE = 2

_COMMANDS = {
    "serve": "gateway.commands:serve",
    "route": "gateway.commands:route",
    "experts": "gateway.expert_commands:experts",
    "keys": "gateway.key_commands:keys",
    "train": "routers.cli:train",
    "calibrate": "routers.cli:calibrate",
    "map": "gateway.mapping_commands:map_command",
    "eval": "eval.cli:eval_group",
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None when there is none of that name."""
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="coe-gateway")
def coe() -> None:
    """Composition of Experts: one OpenAI-compatible endpoint in front of many LLMs.

    Exit codes: 0 ok, 1 falls short, 2 wrong use. `coe COMMAND --help` has examples.
    """


def open_teacher(name: str) -> AbstractContextManager[Router]:
    """Open the expert that ``coe train --distil`` names; see `gateway.teacher`."""
    from gateway.teacher import open_teacher as opened

    return opened(name)


def main() -> None:
    """Run the command line."""
    try:
        coe(obj=open_teacher)
    except ConfigError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(WRONG_USE)
