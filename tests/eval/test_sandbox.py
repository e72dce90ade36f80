"""What code from a model may and may not do."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import psutil
import pytest

from eval.sandbox import isolated, passes
from tests.servers import wait_for


def outcome(source: str, timeout_s: int = 10) -> bool:
    return asyncio.run(passes(source, timeout_s))


def test_a_program_passes_when_it_comes_to_its_end() -> None:
    assert outcome("import math\nassert math.sqrt(4) == 2")


@pytest.mark.parametrize(
    "source",
    [
        "assert 1 == 2",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "not python",
        "x = bytearray(2 << 30)",
        "open('big', 'wb').write(bytes(1 << 25))",
        "files = [open('/dev/null') for _ in range(100)]",
        "\ud800",
    ],
)
def test_a_program_that_fails_or_takes_too_much_does_not(source: str) -> None:
    assert not outcome(source)


def test_its_main_part_is_not_run() -> None:
    assert outcome("if __name__ == '__main__':\n    raise SystemExit(1)")


def test_it_has_a_folder_of_its_own_and_none_of_our_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "secret")
    assert outcome("import os\nassert 'SECRET_KEY' not in os.environ\nassert not os.listdir('.')")
    assert outcome(f"import os\nassert os.getcwd() != {str(Path.cwd())!r}\nopen('x', 'w').close()")


def test_an_endless_program_is_ended_with_all_that_it_started() -> None:
    name = f"coe{time.monotonic_ns()}"
    started_s = time.monotonic()
    child = f"import time; {name} = time.sleep(60)"
    source = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "while True: pass"
    )
    assert not outcome(source, 2)
    assert time.monotonic() - started_s < 20
    wait_for(lambda: not [p for p in psutil.process_iter() if name in " ".join(_command(p))])


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.skipif(not isolated(), reason="this system refuses namespaces")
def test_it_has_no_network_and_sees_no_other_process() -> None:
    assert outcome(
        "import os, socket\n"
        "assert [name for _, name in socket.if_nameindex()] == ['lo']\n"
        "try:\n    socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except OSError as error:\n    assert error.errno == 101  # unreachable: lo is down\n"
        f"try:\n    os.kill({os.getpid()}, 0)\nexcept ProcessLookupError:\n    pass\n"
        "else:\n    assert os.getpid() == 1\n"
    )
