"""An expert teaches a router: ``coe train --distil llm=EXPERT``, over the real embedded model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gateway.errors import ConfigError
from gateway.teacher import open_teacher
from tests.servers import REPO


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
