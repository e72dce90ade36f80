from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from gateway.supervisor.child import Child, ChildSpec, last_line
from gateway.supervisor.plan import run_folder
from gateway.supervisor.supervisor import Supervisor, read_states


def shell(script: str, log_path: Path | None = None, *fatal: int) -> ChildSpec:
    return ChildSpec(
        "test", ("/bin/sh", "-c", script), log_path=log_path, fatal_exit_codes=frozenset(fatal)
    )


async def until(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not probe():
            await asyncio.sleep(0.02)


def test_a_child_that_ends_is_started_again_and_says_why(tmp_path: Path) -> None:
    async def run() -> list[str]:
        states: list[str] = []
        spec = shell("echo no model; exit 3", tmp_path / "log")
        child = Child(spec, lambda: states.append(child.state))
        running = asyncio.create_task(child.run())
        await until(lambda: states.count("started") == 2)
        await child.stop(1)
        running.cancel()
        return states

    first, second, *_ = asyncio.run(run())
    assert (first, second) == ("started", "restarting: exited with code 3: no model")


def test_a_fatal_exit_code_ends_it_for_good() -> None:
    child = Child(shell("exit 2", None, 2), lambda: None)
    assert asyncio.run(child.run()) == 2


def test_the_supervisor_hands_on_the_code_of_a_child_that_failed(tmp_path: Path) -> None:
    async def run() -> int:
        async with Supervisor(tmp_path) as supervisor:
            steady = replace(shell("exec sleep 60"), name="steady")
            supervisor.start([steady, shell("exit 2", None, 2)])
            return await supervisor.failed()

    assert asyncio.run(run()) == 2


def test_one_child_can_be_stopped_while_the_others_go_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with Supervisor(tmp_path) as supervisor:
            specs = [replace(shell("exec sleep 60"), name=name) for name in ("old", "new")]
            supervisor.start(specs)
            await until(lambda: supervisor.state("old") == supervisor.state("new") == "started")
            await supervisor.stop("old")
            assert supervisor.names == ("new",)
            assert supervisor.state("new") == "started"
            with pytest.raises(TimeoutError):  # a child that was stopped has not failed
                await asyncio.wait_for(supervisor.failed(), 0.2)

    asyncio.run(run())


def test_a_child_that_will_not_end_is_killed(tmp_path: Path) -> None:
    async def run() -> int | None:
        ready = tmp_path / "ready"
        script = f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done"
        child = Child(shell(script), lambda: None)
        running = asyncio.create_task(child.run())
        await until(ready.exists)
        pid = child.pid
        await child.stop(0.3)
        assert await running == 0
        return pid

    pid = asyncio.run(run())
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_a_child_that_waits_for_its_restart_can_be_stopped() -> None:
    async def run() -> None:
        child = Child(shell("exit 1"), lambda: None)
        running = asyncio.create_task(child.run())
        await until(lambda: child.state.startswith("restarting"))
        await child.stop(1)
        async with asyncio.timeout(5):
            assert await running == 0

    asyncio.run(run())


def test_the_states_of_children_can_be_read_by_others(tmp_path: Path) -> None:
    async def run() -> None:
        async with Supervisor(tmp_path) as supervisor:
            supervisor.start([shell("kill -9 $$")])
            await until(lambda: "SIGKILL" in read_states(tmp_path).get("test", ""))

    assert read_states(tmp_path) == {}
    asyncio.run(run())
    assert read_states(tmp_path)["test"] == "restarting: killed by signal 9 (SIGKILL)"


def test_a_child_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = """
import asyncio
from pathlib import Path
from gateway.supervisor.child import Child, ChildSpec
child = Child(ChildSpec("test", ("/bin/sleep", "60")), lambda: print(child.pid, flush=True))
asyncio.run(child.run())
"""

    async def run() -> int:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        pid = int(await parent.stdout.readline())
        parent.kill()
        await parent.wait()
        await until(lambda: not psutil.pid_exists(pid) or is_zombie(pid))
        return pid

    assert asyncio.run(run()) > 0


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("content", "last"),
    [(b"", ""), (b"\n \n", ""), (b"a\nb \n\n", "b"), (b"\xff", "\ufffd"), (b"x" * 999, "x" * 300)],
)
def test_the_last_line_of_a_log(tmp_path: Path, content: bytes, last: str) -> None:
    (tmp_path / "log").write_bytes(content)
    assert last_line(tmp_path / "log") == last


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert last_line(tmp_path / "nowhere") == last_line(None) == ""


def test_a_child_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    async def run() -> list[str]:
        states: list[str] = []
        folder = tmp_path / "logs"
        child = Child(shell("exec sleep 60", folder / "log"), lambda: states.append(child.state))
        running = asyncio.create_task(child.run())
        await until(lambda: states)
        folder.mkdir()
        await until(lambda: child.state == "started")
        await child.stop(1)
        await running
        return states

    first, *_ = asyncio.run(run())
    assert first.startswith("restarting: cannot be started: ")
    assert "logs/log" in first


def test_a_child_does_not_get_what_is_hidden_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPERT_KEY", "a-secret")
    monkeypatch.setenv("LANGUAGE", "en")

    async def run() -> str:
        spec = shell('echo "$LANGUAGE ${EXPERT_KEY:-nothing}"; exec sleep 60', tmp_path / "log")
        child = Child(replace(spec, hidden=frozenset({"EXPERT_KEY"})), lambda: None)
        running = asyncio.create_task(child.run())
        await until(lambda: last_line(tmp_path / "log"))
        await child.stop(1)
        await running
        return last_line(tmp_path / "log")

    assert asyncio.run(run()) == "en nothing"


def test_its_folder_is_locked_against_the_cleaning_of_old_files_and_goes_with_it() -> None:
    with run_folder() as folder:
        (folder / "socket").touch()
        other = os.open(folder, os.O_RDONLY)
        with pytest.raises(BlockingIOError):  # systemd-tmpfiles asks so
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
    assert not folder.exists()


def test_a_killed_process_leaves_its_folder_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as parent:
        monkeypatch.setattr(tempfile, "tempdir", parent)
        program = "from gateway.supervisor.plan import run_folder\nimport os, sys\n"
        program += "with run_folder() as folder: print(folder, flush=True); sys.stdin.read()"
        command, environ = [sys.executable, "-c", program], {**os.environ, "TMPDIR": parent}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True
        ) as other:
            assert other.stdout is not None
            left = Path(other.stdout.readline().strip())
            foreign = Path(parent) / "coe-data1234"
            foreign.mkdir()
            with run_folder():
                assert left.is_dir(), "its process lives"
            other.kill()
        assert left.is_dir()
        with run_folder() as mine:
            assert sorted(Path(parent).iterdir()) == sorted([mine, foreign])


def test_a_state_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    async def run() -> int | None:
        folder = tmp_path / "gone"
        folder.mkdir()
        async with Supervisor(folder) as supervisor:
            folder.rmdir()
            fatal = replace(shell("sleep 0.5; exit 2", None, 2), name="fatal")
            supervisor.start([shell("exit 3"), fatal])
            return await supervisor.failed()

    assert asyncio.run(run()) == 2
