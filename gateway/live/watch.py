"""Look at files for changes: contents and times, through symbolic links, by asking again.

The kernel's notifications do not come from network folders and mounts of containers; these are a
few small questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.config import read_experts_text
from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry
from gateway.schema import MappingTable
from routers.mapping import FINER_SUFFIX

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Glance:
    """What the disk holds at a moment; two that are equal saw the same.

    Attributes
    ----------
    text : str or None
        Of the experts file; None when it cannot be read.
    fault : str
        Why it cannot.
    artifacts : Signature
        See `artifacts_of`.
    """

    text: str | None
    fault: str
    artifacts: Signature


def glance(path: Path, registry: ExpertRegistry) -> Glance:
    """Look at an experts file, and at the files that the registry being served names."""
    artifacts = artifacts_of(registry)
    try:
        return Glance(read_experts_text(path), "", artifacts)
    except ConfigError as error:
        return Glance(None, str(error), artifacts)


def artifacts_of(registry: ExpertRegistry) -> Signature:
    """Return what changes when a file of the router or of the mapping is replaced or edited."""
    folder = registry.router_path
    paths = [folder, *sorted(folder.rglob("*"))]
    if isinstance(registry.file.mapping, MappingTable):
        table = registry.path.parent / registry.file.mapping.table
        paths += [table, table.with_suffix(FINER_SUFFIX)]
    return tuple(_signed(path) for path in paths)


def _signed(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
        return str(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns
    except OSError:
        return str(path), 0, 0, 0
