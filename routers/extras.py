"""Imports of what only training needs."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


class MissingExtraError(ImportError):
    """A package of an optional extra is not installed."""


def import_extra(module: str, extra: str) -> Any:  # noqa: ANN401 (the packages are untyped here)
    """Import a module that an extra of this distribution installs.

    Raises
    ------
    MissingExtraError
        It is not installed; the message holds the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} must be installed for this command. Run: "
            f"{sys.executable} -m pip install 'coe-gateway[{extra}]'"
        ) from error
