"""An expert teaches a router: ``coe train --distil llm=EXPERT``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.errors import ConfigError
from gateway.teacher import open_teacher
from routers.artifact import load_router
from routers.data import read_rows
from routers.distil import distilled_rows
from tests.servers import REPO, serving, write_experts


def test_an_expert_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COE_CONFIG", str(REPO / "experts.yaml"))
    with pytest.raises(ConfigError, match=r"no expert 'nobody'\. Allowed: general, coding"):
        open_teacher("llm=nobody").__enter__()


def test_a_teacher_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="router artifact or llm=EXPERT"):
        open_teacher("nobody").__enter__()


def test_a_local_expert_labels_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COE_CONFIG", str(REPO / "experts.yaml"))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with open_teacher("llm=general") as teacher:
        rows = teacher.predict_proba(["Write a Python function", "What is a fever?"])
        category, reason = teacher.explain("My landlord wants to evict me")
    assert rows.shape == (2, len(teacher.categories_))
    assert rows.sum(axis=1) == pytest.approx([1, 1])
    assert category in teacher.categories_
    assert reason
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_the_command_line_finds_the_teacher(tmp_path: Path) -> None:
    prompts = [f"Question {n} about {topic}?" for n in range(12) for topic in ("law", "bread")]
    data = tmp_path / "unlabelled.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    command = [sys.executable, "-m", "gateway", "train", str(data), "--distil", "llm=nobody"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, cwd=REPO
    )
    assert done.returncode == 2
    assert "no expert 'nobody'" in done.stderr
    assert not (tmp_path / "out").exists()


MINE = {"baking": "bread, cakes and ovens", "law": "contracts, rights and courts"}


def labelling(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Answer an LLM router as a model would: the category that the prompt is about, or none."""
    system, asked = (message["content"] for message in body["messages"])
    if "odd" in asked:
        return 400, {"error": {"message": "no"}}
    wanted = "baking" if "bread" in asked else "law"
    letter = next(line[0] for line in system.splitlines() if line[1:].startswith(f". {wanted}: "))
    alternatives = [{"token": letter, "logprob": -0.1}]
    return 200, {"choices": [{"logprobs": {"content": [{"top_logprobs": alternatives}]}}]}


def test_an_expert_teaches_a_router_ones_own_categories(tmp_path: Path) -> None:
    prompts = [f"Question {n} about {topic}?" for n in range(12) for topic in ("law", "bread")]
    prompts[4] = "An odd one"
    data = tmp_path / "unlabelled.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    (tmp_path / "mine.yaml").write_text(json.dumps(MINE))
    command = [sys.executable, "-m", "gateway", "train", str(data), "--type", "bag"]
    command += ["--out", str(tmp_path / "out"), "--distil", "llm=judge"]
    command += ["--categories", str(tmp_path / "mine.yaml")]
    with serving(labelling) as url:
        experts = [{"name": "judge", "base_url": f"{url}/v1", "active_params_b": 7}]
        config = write_experts(tmp_path / "experts.yaml", experts, {}, router="out")
        environ = {**os.environ, "COE_CONFIG": str(config)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=environ)
    assert done.returncode == 0, done.stderr
    assert f"1 of 24 prompts got no label and are left out: {data}:5; the first" in done.stderr
    router = load_router(tmp_path / "out")
    assert router.categories_ == ("baking", "law")
    labels = {row.prompt: row.category for row in read_rows([tmp_path / "out.labels.jsonl"])}
    assert labels["Question 0 about bread?"] == "baking"
    assert labels["Question 0 about law?"] == "law"
    assert len(labels) == 23


def test_a_teacher_that_answers_one_prompt_after_the_other_has_time_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = threading.Lock()

    def slowly(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with turn:
            time.sleep(0.3)
            return labelling(path, body)

    monkeypatch.setattr("gateway.teacher.TURN_S", 1.0)
    with serving(slowly) as url:
        experts = [{"name": "judge", "base_url": f"{url}/v1", "active_params_b": 7}]
        config = write_experts(tmp_path / "experts.yaml", experts, {})
        monkeypatch.setenv("COE_CONFIG", str(config))
        (tmp_path / "mine.yaml").write_text(json.dumps(MINE))
        with open_teacher("llm=judge", tmp_path / "mine.yaml") as teacher:
            prompts = [f"Question {n} about law?" for n in range(8)]
            rows, failures = distilled_rows(teacher, prompts, tmp_path / "labels.jsonl")
    assert not failures
    assert [row.category for row in rows] == ["law"] * 8


@pytest.mark.parametrize("text", ["law: courts", "- law", "law:\nbaking: bread", "1: a\nb: c", "{"])
def test_categories_that_are_none_are_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COE_CONFIG", str(REPO / "experts.yaml"))
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"--categories: .*mine\.yaml must "):
        open_teacher("llm=general", tmp_path / "mine.yaml").__enter__()
