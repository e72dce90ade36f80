"""What `coe eval bench` counts and how it compares; `make bench-smoke` runs the whole of it."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import httpx
import psutil
import pytest

from eval.bench.cases import Case, cases, pick
from eval.bench.load import Load, Sample
from eval.bench.prompts import NUMBER, QUESTIONS, prompts
from eval.bench.refusals import refusals_ms
from eval.bench.report import markdown
from eval.bench.run import WARM_UP_S, Round, measure, minutes, summarise
from eval.bench.streams import run_streams
from eval.bench.systems import Starter, System, Target, chat, free_port
from tests.servers import REPO, serving, wait_for

N_CHUNKS, GAP_MS = 5, 10


@pytest.fixture(scope="module")
def pacer() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "eval.bench.pacer", str(port), str(N_CHUNKS), str(GAP_MS)]
    with subprocess.Popen(command, cwd=REPO) as process:
        wait_for(lambda: _is_up(port))
        yield chat(port)
        process.kill()


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
    except httpx.TransportError:
        return False


def test_the_source_of_streams_is_steady_and_its_chunks_are_timed(pacer: str) -> None:
    started_s = time.perf_counter()
    sample = run_streams(pacer, "m", {}, Load(90, True, 2, stream=True), 0.2)
    took_s = time.perf_counter() - started_s
    least_s = N_CHUNKS * GAP_MS / 1000
    assert sample.requests >= 2
    assert (sample.refused, sample.broken) == (0, 0)
    assert took_s >= least_s * sample.requests / 2
    assert sample.delay_p50_ms is not None
    assert 0 < sample.delay_p50_ms < 1000 * took_s
    assert 0 < sample.p50_ms < 1000 * took_s


class Server(ThreadingTCPServer):
    """Says one thing to whoever asks, and no more; `opened` holds the connections there are."""

    def __init__(self, said: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.said = said
        self.opened: list[Handler] = []


class Handler(StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.opened.append(self)
        with suppress(OSError):  # the client has hung up already
            while self.rfile.readline().strip():
                pass
            self.wfile.write(self.server.said)
            self.request.shutdown(socket.SHUT_WR)
            self.rfile.read()  # until the client hangs up
        self.server.opened.remove(self)


@contextmanager
def saying(said: bytes) -> Iterator[Server]:
    with Server(said) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_refused_streams_are_answers_that_failed_and_hold_no_connection() -> None:
    with saying(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n") as server:
        url = chat(server.server_address[1])
        sample = run_streams(url, "m", {}, Load(90, True, 2, stream=True), 0.2)
        wait_for(lambda: not server.opened)
    assert sample.requests == sample.refused > 4
    assert sample.broken == 0
    assert math.isnan(sample.p50_ms)
    case = Case("stream-20", Load(90, True, 2, stream=True))
    (row,) = summarise([case], {(case.label, "rival"): [Round(sample, 1.0, 10.0)]})["rows"]
    assert (row["requests_per_s"], row["p50_ms"]) == (0, None)


def test_a_stream_that_ends_between_two_chunks_is_broken() -> None:
    said = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with saying(said) as server:
        url = chat(server.server_address[1])
        sample = run_streams(url, "m", {}, Load(90, True, 1, stream=True), 0.1)
    assert (sample.requests, sample.refused) == (0, 0)
    assert sample.broken > 0


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("n_chars", [90, 2_000, 18_000])
def test_a_prompt_has_one_place_for_the_number_that_makes_it_distinct(
    n_chars: int, mixed: bool
) -> None:
    bodies = Load(n_chars, True, 1, mixed=mixed).around("auto")
    assert len(bodies) == len(QUESTIONS)
    for (before, after), question in zip(bodies, QUESTIONS, strict=True):
        text = json.loads(f"{before}7{after}")["messages"][0]["content"]
        assert text.startswith(question.replace(NUMBER, "7"))
        assert NUMBER not in text
        assert n_chars <= 100 or len(text) == n_chars


def test_notes_behind_a_question_are_on_its_topic_or_mixed_with_another() -> None:
    alike, mixed = prompts(2_000), prompts(2_000, mixed=True)
    notes = [text.removeprefix(QUESTIONS[i]) for i, text in enumerate(alike)]
    assert notes[0][:500] == notes[1][:500] != notes[2][:500]
    others = [text.removeprefix(QUESTIONS[i])[:500] for i, text in enumerate(mixed)]
    assert {each[:500] for each in notes} == set(others)
    assert all(other != note[:500] for other, note in zip(others, notes, strict=True))


def test_a_system_whose_first_process_died_leaves_none_behind(tmp_path: Path) -> None:
    with ExitStack() as stack:
        starter = Starter(tmp_path, stack)
        pid = starter.start("orphans", ["sh", "-c", "sleep 300 & echo $!"])
        psutil.Process(pid).wait(10)
        orphan = psutil.Process(int((tmp_path / "orphans.log").read_text()))
        assert orphan.is_running()
    orphan.wait(10)


def rounds(*p50_and_rate: tuple[float, int]) -> list[Round]:
    samples = [Sample(rate, 1.0, p50, 9.0, 9.9, 0, 0) for p50, rate in p50_and_rate]
    return [Round(sample, 0.5, 100.0) for sample in samples]


def test_systems_are_compared_round_by_round() -> None:
    case = Case("same-20", Load(90, False, 32))
    found = summarise(
        [case],
        {
            (case.label, "direct"): rounds((1, 900), (2, 400), (1, 900)),
            (case.label, "rival"): rounds((8, 50), (40, 10), (8, 50)),
            (case.label, "coe routed x1"): rounds((4, 100), (20, 20), (4, 50)),
            (case.label, "coe routed x2"): rounds((2, 200), (10, 40), (2, 100)),
        },
    )
    one, several = (found["ratios"]["same-20@32"][f"coe routed x{n}"] for n in (1, 2))
    assert one["rival"] == {"p50": 2.0, "requests_per_s": 2.0}
    assert several["rival"] == {"p50": 4.0, "requests_per_s": 4.0}
    assert one.keys() == {"direct", "rival"}
    rival = found["rows"][1]
    assert (rival["p50_ms"], rival["p50_ms_spread"]) == (8, [8, 40])
    assert (rival["requests_per_s"], rival["cpu_s_per_1k"]) == (50, 10)
    table = markdown(found)
    assert "| rival | 8.00 (8.00 to 40.00) | 7.00 |" in table
    assert "ours beside it: x1, x2 |" in table
    (line,) = (line for line in table.splitlines() if line.startswith("| rival"))
    assert line.endswith(" 2.00, 4.00 |")


@pytest.mark.parametrize("stream", [True, False])
def test_a_system_that_has_died_does_not_end_the_others(
    pacer: str, tmp_path: Path, stream: bool
) -> None:
    if not stream and not shutil.which("wrk"):
        pytest.skip("whole answers are asked for with wrk")
    target = Target(pacer, os.getpid())
    gone = Target(chat(free_port()), os.getpid())
    systems = [System("dead", gone, gone), System("alive", target, target)]
    case = Case("stream-20" if stream else "same-20", Load(90, False, 1, stream=stream))
    said: list[str] = []
    found = measure(systems, [case], 1, 1, tmp_path, said.append)
    dead, alive = found["rows"]
    assert (dead["p50_ms"], dead["requests_per_s"], dead["cpu_s_per_1k"]) == (None, 0, None)
    assert any(line.startswith("no answer: ") for line in said)
    assert stream == (alive["chunk_p50_ms"] is not None)
    table = markdown(found)
    assert "| dead | no answer |" in table
    assert ("first chunk" in table) == stream


def test_the_memory_of_a_row_is_the_most_that_was_held_while_it_was_measured(
    pacer: str, tmp_path: Path
) -> None:
    """Not what is held after it, nor what was held before."""
    code = "import time\nx = bytearray(300_000_000); del x\nprint(flush=True)\ntime.sleep({})\n"
    later = "x = bytearray(100_000_000); del x\ntime.sleep(60)"
    command = [sys.executable, "-c", code.format(WARM_UP_S + 2) + later]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        target = Target(pacer, holder.pid)
        case = Case("stream-20", Load(90, False, 1, stream=True))
        (row,) = measure([System("x", target, target)], [case], 1, 4, tmp_path, print)["rows"]
        holder.kill()
    assert 100 < row["peak_mb"] < 200


def test_refusals_are_no_answers() -> None:
    case = Case("same-20", Load(90, False, 1))
    sample = Sample(100, 2.0, 1.0, 1.0, 1.0, refused=40, broken=0)
    found = summarise([case], {(case.label, "coe routed x2"): [Round(sample, 1.0, 10.0)]})
    assert found["rows"][0]["requests_per_s"] == 30


def test_all_cases_hold_the_quick_ones_and_any_may_be_picked() -> None:
    whole, quick = ({case.label for case in cases(quick=shown)} for shown in (False, True))
    assert quick < whole
    assert {case.load.concurrency for case in cases()} == {1, 8, 32, 128, 512}
    for label in whole:
        assert [case.label for case in pick([label], quick=True)] == [label]
    with pytest.raises(ValueError, match="--case must be one of same-20@1, "):
        pick(["fast"], quick=False)


def test_the_time_of_a_run_is_told_before_it() -> None:
    target = Target("http://x", 1)
    systems = [System("both", target, target), System("whole answers", target, None)]
    chosen = pick(["same-20@1", "stream-20@1"], quick=False)
    assert minutes(systems, chosen, rounds=3, seconds=2) == pytest.approx(3 * 3 * 3.4 / 60)
    crowd = pick(["same-20@512"], quick=False)
    assert minutes(systems, crowd, rounds=1, seconds=2) == pytest.approx(2 * 6.4 / 60)
    assert minutes(systems, crowd, rounds=1, seconds=9) == pytest.approx(2 * 10.4 / 60)


@pytest.mark.skipif(not shutil.which("wrk"), reason="the load is wrk's")
def test_refusals_are_timed_beside_the_load(tmp_path: Path) -> None:
    statuses = itertools.cycle([503, 503, 200])
    with serving(lambda *_: (next(statuses), {})) as url:
        taken = refusals_ms(Target(f"{url}/v1", 1), Load(90, False, 2), 1, tmp_path)
    assert taken["n"]
    assert taken["admitted"]
    assert taken["p50_ms"] is not None
    assert 0 < taken["p50_ms"] < 30_000


def test_the_report_says_how_soon_a_full_gateway_refuses() -> None:
    none = {"n": 0, "admitted": 9, "p50_ms": None, "p99_ms": None}
    some = {"n": 7, "admitted": 1, "p50_ms": 2.5, "p99_ms": 9}
    told = markdown({"rows": [], "refusals": {"same-20@128": none, "same-20@512": some}})
    assert "under same-20@128 refused 0 of 9 new clients beside it, their" in told
    assert "refused 7 of 8 new clients beside it, after 2.50 ms (p50), 9.00 (p99), their" in told
