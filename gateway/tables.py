"""Where tables for people are printed."""

from __future__ import annotations

from rich.console import Console

_PIPE_COLUMNS = 400


def console_for_tables(*, markup: bool = True) -> Console:
    """Return standard output; a file or a pipe gets the rows of a table in a line each.

    Without `markup`, names in brackets or colons are shown as they are.
    """
    console = Console(markup=markup, emoji=markup)
    if not console.is_terminal:
        console.width = _PIPE_COLUMNS
    return console
