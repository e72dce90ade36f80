"""The failover scenarios: ours pass, and a gateway that does nothing is told from one that does."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from eval.cli import eval_group
from eval.failover.cli import failover as command
from eval.failover.report import START, markdown
from eval.failover.scenarios import SCENARIOS
from eval.failover.wire import Orders, begun, read_orders
from eval.notes import END, write_table
from tests.servers import NOBODY_URL, REPO

TELLING = (
    "status_500,wrong_key,refused,reset,reset_stream,cut_stream,ended_early,malformed_chunk,"
    "error_event,missing_done,truncated_json,cut_body,html_stream,context_length,bad_request,"
    "content_filter,tool_call_cut,one_down,usage_stream,usage_cut,client_leaves,"
    "client_leaves_stream"
)
"""Those without long waits; `make failover` plays all."""


def failover(*flags: str) -> subprocess.CompletedProcess[str]:
    coe = [sys.executable, "-m", "gateway"]
    return subprocess.run(
        [*coe, "eval", "failover", *flags], capture_output=True, text=True, timeout=100, cwd=REPO
    )


def free_ports() -> list[int]:
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        return [a.getsockname()[1], b.getsockname()[1]]


def test_ours_passes_the_telling_scenarios() -> None:
    done = failover("--only", TELLING, "--json")
    found = json.loads(done.stdout)
    assert [one for one in found["scenarios"] if one["verdict"] != "pass"] == []
    assert found["passed"] == found["total"] == len(TELLING.split(","))
    assert done.returncode == 0


def test_an_upstream_without_a_gateway_is_graded_as_what_it_is() -> None:
    ports = free_ports()
    wanted = {
        "status_500": "safe",
        "cut_stream": "safe",
        "missing_done": "safe",
        "ended_early": "fail",
        "html_stream": "safe",
        "bad_request": "pass",
        "content_filter": "pass",
        "usage_stream": "safe",
        "client_leaves": "pass",
    }
    url = f"http://127.0.0.1:{ports[0]}/v1"
    where = ("--url", url, "--ports", *map(str, ports), "--only", ",".join(wanted))
    done = failover(*where, "--json")
    found = json.loads(done.stdout)
    assert {one["id"]: one["verdict"] for one in found["scenarios"]} == wanted
    assert (found["passed"], found["total"]) == (3, 9)
    evidence = {one["id"]: one["evidence"] for one in found["scenarios"]}
    assert evidence["ended_early"].startswith("status 200; 4 of 8 pieces; calls: faulty 1")
    assert done.returncode == 1


def test_a_gateway_that_is_not_pointed_at_the_upstreams_is_wrong_use() -> None:
    done = failover("--url", NOBODY_URL, "--ports", "0", "0")
    assert done.returncode == 2
    assert f"{NOBODY_URL} must send model 'faulty' to http://127.0.0.1:" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--only", "all_down,nothing"), "--only must name scenarios: rate_limit, .*; got nothing"),
        (("--header", "x"), "--header must be 'Name: value'; got 'x'"),
        (("--key-env", "COE_NO_SUCH_KEY"), "the variable COE_NO_SUCH_KEY must be set"),
        (("--system", "litellm", "--rivals", "nowhere"), "litellm must be installed at .*: make"),
        (("--system", "portkey", "--rivals", "nowhere"), "portkey must be installed at .*: make"),
    ],
)
def test_wrong_use_says_how_to_mend_it(flags: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(command, [*flags])
    assert done.exit_code == 2
    assert re.search(message, " ".join(done.output.split()))


def test_there_are_scenarios_enough_each_with_a_name_of_its_own() -> None:
    assert len({scenario.id for scenario in SCENARIOS}) == len(SCENARIOS) >= 20


def test_orders_are_read_from_a_prompt_and_continued_where_they_stopped() -> None:
    orders = Orders("a1b2", {"faulty": "status-429-30", "healthy": "ok"}, 3)
    messages = [{"role": "user", "content": orders.prompt()}]
    assert read_orders(messages) == orders
    assert orders.after("") == ["a1b2-0 ", "a1b2-1 ", "a1b2-2 "]
    messages.append({"role": "assistant", "content": "a1b2-0 a1b"})
    assert orders.after(begun(messages)) == ["2-1 ", "a1b2-2 "]


@pytest.mark.parametrize(
    "asked",
    [["failover", "--only", "reset"], ["soak", "--minutes", "0.1"]],
    ids=lambda asked: asked[0],
)
def test_a_note_without_a_place_is_refused_before_the_measurement(
    asked: list[str], tmp_path: Path
) -> None:
    note = tmp_path / "typo.md"
    done = CliRunner().invoke(eval_group, [*asked, "--write", str(note)])
    assert done.exit_code == 2
    assert f"{note} must hold <!-- " in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_the_table_takes_its_place_in_a_note(tmp_path: Path) -> None:
    def system(name: str, verdict: str) -> dict[str, Any]:
        one = {"id": "reset", "verdict": verdict, "evidence": "no answer"}
        return {"system": name, "scenarios": [one], "passed": 1, "safe": 0, "total": 1}

    note = tmp_path / "note.md"
    note.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_table(note, START, markdown([system("a", "pass"), system("b", "fail")]))
    text = note.read_text()
    assert "| `reset` | connection reset | the whole answer | pass | **fail** |" in text
    assert "- `reset` (fail): no answer" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    with pytest.raises(ValueError, match="must hold"):
        write_table(note, "<!-- another -->", "")
