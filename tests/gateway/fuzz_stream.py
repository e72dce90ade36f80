"""Coverage-guided fuzzing of the relay: ``make fuzz-sse``.

Arguments: a folder for its corpus, then those of libFuzzer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gateway.sse", "gateway.relay"]):
    from tests.gateway.stream_properties import SEEDS, check

MOST_CUTS = 8


def one_input(data: bytes) -> None:
    """Cut a stream where the first bytes say, and check what is relayed."""
    n_cuts = data[0] % MOST_CUTS if data else 0
    places = list(data[1 : 1 + n_cuts])
    check(data[1 + n_cuts :], places)


def plant(corpus: Path) -> None:
    """Begin with streams that experts send."""
    for i, seed in enumerate((*SEEDS, b"".join(SEEDS))):
        (corpus / f"seed{i}").write_bytes(b"\2\20\50" + seed)


if __name__ == "__main__":
    plant(Path(sys.argv[1]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
