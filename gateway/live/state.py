"""What the parent of a gateway tells its workers to serve, through a file in their folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gateway.live.versions import digest_of

LIVE_FILE = "live.json"


class Live(msgspec.Struct, frozen=True):
    """What is served, and what was refused.

    Attributes
    ----------
    generation : int
        Goes up with each change: of the experts, the router or the mapping's table.
    number : int
        Of the version among the replicas; 0 before one was agreed on.
    text : str
        Of the experts file.
    error : str or None
        Why the last edit is not served; None when it is.
    n_refused : int
        Edits that were refused since the gateway started.
    """

    generation: int
    number: int
    text: str
    error: str | None = None
    n_refused: int = 0

    @property
    def digest(self) -> str:
        """See `digest_of`."""
        return digest_of(self.text)


def write_live(run_dir: Path, live: Live) -> None:
    """Tell the workers."""
    draft = run_dir / f"{LIVE_FILE}.new"
    draft.write_bytes(msgspec.json.encode(live))
    draft.replace(run_dir / LIVE_FILE)


def read_live(run_dir: Path) -> Live:
    """Return what the parent said last."""
    return msgspec.json.decode((run_dir / LIVE_FILE).read_bytes(), type=Live)


def stamp_of(run_dir: Path) -> tuple[int, int]:
    """Return what changes whenever `write_live` is called."""
    found = (run_dir / LIVE_FILE).stat()
    return found.st_mtime_ns, found.st_ino
