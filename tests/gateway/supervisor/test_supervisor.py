"""The shipped experts.yaml with its real model, and what becomes of it when processes die."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.servers import (
    NOBODY_URL,
    REPO,
    Gateway,
    UpstreamServer,
    run_gateway,
    wait_for,
    write_experts,
)

LLAMA, VALKEY, WORKER = "gateway.supervisor.llama", "valkey-server", "gateway.worker"
QUESTIONS = {
    "coding": "Write a Python function that sorts a list of integers with quicksort.",
    "medical": "I have had a fever, a cough and chest pain for days. Which illness could it be?",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(REPO / "experts.yaml", tmp_path_factory.mktemp("shipped")) as running:
        yield running


@pytest.mark.parametrize("category", QUESTIONS)
def test_the_real_model_answers_through_the_expert_of_the_category(
    gateway: Gateway, category: str
) -> None:
    whole = gateway.chat("auto", QUESTIONS[category], max_tokens=8)
    assert whole.status_code == 200
    assert whole.headers["x-coe-category"] == whole.headers["x-coe-expert"] == category
    assert whole.json()["choices"][0]["message"]["content"].strip()
    assert whole.json()["usage"]["completion_tokens"] <= 8
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x") as client:
        stream = client.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": QUESTIONS[category]}],
            stream=True,
            max_tokens=8,
        )
        deltas = [chunk.choices[0].delta.content for chunk in stream]
    assert "".join(delta for delta in deltas if delta).strip()
    line = gateway.logged(whole.headers["x-request-id"])
    assert line["usage"] == "reported"


CHAT = ("chat/completions", {"messages": [{"role": "user", "content": "Tell me a story."}]})
TEXT = ("completions", {"prompt": "Once upon a time"})


@pytest.mark.parametrize(("path", "asked"), [CHAT, TEXT])
def test_all_choices_are_counted(gateway: Gateway, path: str, asked: dict[str, Any]) -> None:
    three = {"model": "general", "n": 3, "max_tokens": 8, "ignore_eos": True}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = gateway.post(f"/v1/{path}", json={**asked, **three, **usage})
    line = gateway.logged(streamed.headers["x-request-id"])
    assert (line["completion_tokens"], line["usage"]) == (3 * 8, "reported")
    if path == CHAT[0]:
        last = streamed.text.split("data: ")[-2]
        assert json.loads(last)["usage"]["completion_tokens"] == 3 * 8

    whole = gateway.post(f"/v1/{path}", json={**asked, **three})
    assert len(whole.json()["choices"]) == 3
    line = gateway.logged(whole.headers["x-request-id"])
    assert 2 * 8 < line["completion_tokens"] < 6 * 8
    assert line["usage"] == "estimated"


def test_shared_weights_run_once(gateway: Gateway) -> None:
    commands = [" ".join(child.cmdline()) for child in gateway.children()]
    assert len([command for command in commands if LLAMA in command]) == 1
    assert gateway.stats()["resident_params_b"] == pytest.approx(0.1345)


def test_a_killed_model_comes_back_by_itself_and_its_stream_goes_on(gateway: Gateway) -> None:
    llama = gateway.child(LLAMA)
    messages = [{"role": "user", "content": "Count to a thousand."}]
    body = {"model": "general", "messages": messages, "stream": True, "max_tokens": 60}
    url = f"{gateway.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=60) as answer:
        chunks = answer.iter_text()
        next(chunks)
        llama.kill()
        rest = "".join(chunks)
    assert rest.rstrip().endswith("data: [DONE]")
    assert '"error"' not in rest
    line = gateway.logged(answer.headers["x-request-id"])
    assert (line["outcome"], line["rescued_by"]) == ("ok", ["general"])


def test_while_a_model_is_down_its_requests_wait_or_fail_in_openai_form(gateway: Gateway) -> None:
    gateway.child(LLAMA).kill()
    body = {"model": "general", "messages": [{"role": "user", "content": "hello"}]}
    failed = gateway.post("/v1/chat/completions", json=body, headers={"x-coe-timeout-s": "0.05"})
    assert failed.status_code in {502, 503, 504}
    assert failed.json()["error"]["type"] == "api_error"
    shown = gateway.get("/readyz")
    assert (shown.status_code, shown.json()["ready"]) == (503, False)
    assert shown.json()["experts"]["smollm2-135m"] != "ok"
    assert gateway.get("/healthz").status_code == 200
    wait_for(lambda: gateway.chat("general", max_tokens=1).status_code == 200, 10)
    assert gateway.get("/readyz").status_code == 200
    gateway.wait_for_log("restarting: killed by signal 9 (SIGKILL)")


def test_without_its_cache_the_gateway_goes_on_and_starts_another(gateway: Gateway) -> None:
    valkey = gateway.child(VALKEY)
    valkey.kill()
    valkey.wait(5)
    for category, question in QUESTIONS.items():
        answer = gateway.chat("auto", question, max_tokens=1)
        assert (answer.status_code, answer.headers["x-coe-category"]) == (200, category)
    wait_for(lambda: gateway.get("/readyz").json()["cache"] == "ok")
    assert gateway.child(VALKEY).pid != valkey.pid


def test_a_killed_worker_is_replaced(gateway: Gateway) -> None:
    worker = gateway.child(WORKER)
    worker.kill()
    worker.wait(5)
    # the port stays open: requests wait for the next worker
    assert gateway.get("/healthz").status_code == 200
    assert gateway.child(WORKER).pid != worker.pid


def test_every_expert_that_ships_answers_when_it_is_checked() -> None:
    command = [sys.executable, "-m", "gateway", "experts", "check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=100)
    checked = json.loads(done.stdout)
    assert [row["error"] for row in checked["experts"]] == [None] * 10
    assert done.returncode == 0


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a socket, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


def run_dirs(folder: Path) -> list[Path]:
    return list(folder.glob("coe-*"))


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() for process in processes)


def test_ctrl_c_leaves_nothing(tmp_path: Path, short_dir: Path) -> None:
    with run_gateway(REPO / "experts.yaml", tmp_path, TMPDIR=str(short_dir)) as gateway:
        children = gateway.children()
        assert len(children) == 3
        assert run_dirs(short_dir)
        gateway.process.send_signal(signal.SIGINT)
        assert gateway.process.wait(30) == 0
        assert all_gone(children)
        assert run_dirs(short_dir) == []


def test_a_killed_gateway_leaves_no_process(tmp_path: Path, short_dir: Path) -> None:
    with run_gateway(REPO / "experts.yaml", tmp_path, TMPDIR=str(short_dir)) as gateway:
        children = gateway.children()
        assert len(children) == 3
        gateway.process.kill()
        gateway.process.wait()
        wait_for(lambda: all_gone(children))


def test_a_stop_lets_an_open_answer_finish(
    upstream: UpstreamServer, tmp_path: Path, short_dir: Path
) -> None:
    experts = [{"name": "paced", "base_url": upstream.base_url}]
    config = write_experts(tmp_path / "experts.yaml", experts, {})
    body = {"model": "paced", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with run_gateway(config, tmp_path, TMPDIR=str(short_dir)) as gateway:
        children = gateway.children()
        url = f"{gateway.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=30) as answer:
            chunks = answer.iter_text()
            next(chunks)
            gateway.process.send_signal(signal.SIGTERM)
            rest = "".join(chunks)
        assert rest.endswith("data: [DONE]\n\n")
        assert gateway.process.wait(30) == 0
        assert all_gone(children)
        assert run_dirs(short_dir) == []
        assert gateway.requests_logged()[-1]["outcome"] == "ok"


def test_a_stop_does_not_wait_for_ever(upstream: UpstreamServer, tmp_path: Path) -> None:
    experts = [{"name": "endless", "base_url": upstream.base_url}]
    config = write_experts(tmp_path / "experts.yaml", experts, {})
    body = {"model": "endless", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with run_gateway(config, tmp_path, COE_DRAIN_TIMEOUT_S="1") as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=30) as answer:
            next(answer.iter_text())
            gateway.process.send_signal(signal.SIGTERM)
            assert gateway.process.wait(15) == 0


# what is refused at start


def refusal(tmp_path: Path, config: Path, **environ: str) -> str:
    """Start a gateway that must refuse to; returns what it said."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        with run_gateway(config, tmp_path, ready=False, TMPDIR=folder, **environ) as gateway:
            assert gateway.process.wait(30) == 2
        assert run_dirs(Path(folder)) == []
    said = gateway.log_path.read_text()
    assert "Traceback" not in said
    return said


def one_expert(tmp_path: Path, **keys: Any) -> Path:
    expert = {"name": "only", "base_url": NOBODY_URL, **keys}
    return write_experts(tmp_path / "experts.yaml", [expert], {})


def local_expert(tmp_path: Path, model: str) -> Path:
    return one_expert(tmp_path, backend="local", base_url=None, model=model)


def test_a_broken_setting_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, one_expert(tmp_path), COE_WORKERS="none", COE_LOG_LEVEL="loud")
    assert re.search(r"workers \(COE_WORKERS .*valid integer.*; got 'none'", said)
    assert re.search(r"log_level .*'DEBUG', 'INFO', 'WARNING' or 'ERROR'; got 'loud'", said)


def test_a_key_that_is_not_set_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, one_expert(tmp_path, api_key_env="NOT_SET_ANYWHERE"))
    assert "the environment variable NOT_SET_ANYWHERE (api_key_env) must hold its key" in said


def test_a_missing_model_file_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, local_expert(tmp_path, "nowhere.gguf"))
    assert "Error: expert 'only': model must be a .gguf file" in said
    assert f"no file at {tmp_path / 'nowhere.gguf'}" in said


def test_a_model_that_does_not_load_is_reported_and_the_gateway_stays_up(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and nothing else")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = local_expert(tmp_path, "broken.gguf")
    with run_gateway(config, tmp_path, "--port", str(port), ready=False) as gateway:
        gateway.url = f"http://127.0.0.1:{port}"

        def reported() -> bool:
            return gateway.get("/readyz").json()["experts"]["only"].startswith("restarting: exited")

        wait_for(lambda: answers(gateway), 30)
        wait_for(reported, 30)
        assert gateway.get("/readyz").status_code == 503
        assert gateway.chat("only").json()["error"]["code"] == "expert_unavailable"


def answers(gateway: Gateway) -> bool:
    try:
        return gateway.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
