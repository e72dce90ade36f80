from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner

from routers.artifact import read_card, save_router
from routers.bag import BagRouter
from routers.base import Router
from routers.cli import train
from routers.distil import distilled_rows
from tests.prompts import toy_rows, write_lines

PROMPTS = [row.prompt for row in toy_rows()]


@pytest.fixture(scope="module")
def teacher() -> BagRouter:
    return BagRouter("teacher").fit(PROMPTS, [row.category for row in toy_rows()])


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])


def test_prompts_get_the_teachers_labels(teacher: BagRouter) -> None:
    told: list[tuple[str, int, int]] = []
    rows = distilled_rows(teacher, PROMPTS[:2], lambda *call: told.append(call))
    assert [row.prompt for row in rows] == PROMPTS[:2]
    assert [row.category for row in rows] == ["coding", "coding"]
    assert rows[0].source == f"labelled by teacher@{teacher.version}"
    assert told == [("labelling", 1, 2), ("labelling", 2, 2)]


def test_a_student_learns_from_an_artifact(
    teacher: BagRouter, unlabelled: Path, tmp_path: Path
) -> None:
    save_router(teacher, tmp_path / "teacher", {})
    command = [unlabelled, "--out", tmp_path / "student", "--type", "bag", "--seed", 1]
    command += ["--distil", tmp_path / "teacher"]
    result = CliRunner().invoke(train, [str(argument) for argument in command])
    assert result.exit_code == 0, result.output
    card = read_card(tmp_path / "student")
    assert card.categories == teacher.categories_
    assert card.training["held_out"]["accuracy"] > 0.9


def test_other_teachers_are_opened_by_whom_mounts_the_command(
    teacher: BagRouter, unlabelled: Path, tmp_path: Path
) -> None:
    def open_teacher(name: str) -> AbstractContextManager[Router]:
        assert name == "llm=general"
        return nullcontext(teacher)

    command = [str(unlabelled), "--out", str(tmp_path / "s"), "--type", "bag"]
    command += ["--distil", "llm=general"]
    result = CliRunner().invoke(train, command, obj=open_teacher)
    assert result.exit_code == 0, result.output
    alone = CliRunner().invoke(train, [*command[:2], str(tmp_path / "t"), *command[3:]])
    assert alone.exit_code == 2
    assert "must be a router artifact folder" in alone.stderr
