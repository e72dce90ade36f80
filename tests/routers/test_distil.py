from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner

from routers.artifact import read_card, save_router
from routers.bag import BagRouter
from routers.base import FloatArray, Router, RouterError
from routers.cli import train
from routers.data import read_rows
from routers.distil import distilled_rows
from tests.prompts import toy_rows, write_lines

PROMPTS = [row.prompt for row in toy_rows()]


@pytest.fixture(scope="module")
def teacher() -> BagRouter:
    return BagRouter("teacher").fit(PROMPTS, [row.category for row in toy_rows()])


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])


class Failing:
    """A teacher that fails at the prompts that hold a word, and keeps what it was asked."""

    def __init__(self, teacher: BagRouter, word: str) -> None:
        self.name, self.version = teacher.name, teacher.version
        self.categories_, self.min_margin = teacher.categories_, 0.0
        self.active_params_b = teacher.active_params_b
        self.asked: list[str] = []
        self._teacher, self._word = teacher, word

    def predict_proba(self, texts: Sequence[str]) -> FloatArray:
        self.asked += texts
        time.sleep(0.02)
        if any(self._word in text for text in texts):
            raise RouterError("it named no category")
        return self._teacher.predict_proba(texts)


def test_what_a_teacher_cannot_label_is_left_out_and_asked_for_again(
    teacher: BagRouter, tmp_path: Path
) -> None:
    prompts = ["Write Rust code", "Boil an egg", "Please fail", "Fry potatoes"]
    log = tmp_path / "labels.jsonl"
    failing = Failing(teacher, "fail")
    rows, failures = distilled_rows(failing, prompts, log)
    assert [row.prompt for row in rows] == [prompts[0], prompts[1], prompts[3]]
    assert failures == {2: "it named no category"}
    again = Failing(teacher, "nothing")
    assert len(distilled_rows(again, prompts, log)[0]) == 4
    assert again.asked == ["Please fail"]


def test_a_run_that_was_cut_goes_on_where_it_was(teacher: BagRouter, tmp_path: Path) -> None:
    log = tmp_path / "labels.jsonl"
    whole, _ = distilled_rows(teacher, PROMPTS[:3], log)
    kept = log.read_bytes()
    cut = read_rows([log])[-1].prompt
    log.write_bytes(kept[:-10])
    asked = Failing(teacher, "nothing")
    rows, _ = distilled_rows(asked, PROMPTS[:3], log)
    assert asked.asked == [cut]
    assert log.read_bytes() == kept
    assert rows == whole


def test_labels_of_another_teacher_are_not_taken(teacher: BagRouter, tmp_path: Path) -> None:
    log = tmp_path / "labels.jsonl"
    distilled_rows(teacher, PROMPTS[:3], log)
    other = Failing(teacher, "nothing")
    other.version = "another"
    distilled_rows(other, PROMPTS[:3], log)
    assert sorted(other.asked) == sorted(PROMPTS[:3])


def test_a_teacher_that_is_down_is_not_asked_for_ever(teacher: BagRouter, tmp_path: Path) -> None:
    log = tmp_path / "labels.jsonl"
    down = Failing(teacher, "")
    with pytest.raises(RouterError, match=r"of 10 prompts in a row it labelled none: it named"):
        distilled_rows(down, PROMPTS, log)
    assert 10 <= len(down.asked) < len(PROMPTS)
    with pytest.raises(RouterError, match=r"of 2 of 3 prompts it labelled none.*labels\.jsonl"):
        distilled_rows(Failing(teacher, "?"), ["Boil an egg", "a?", "b?"], log)
    assert len(read_rows([log])) == 1


def test_a_teacher_is_asked_several_prompts_at_a_time(teacher: BagRouter, tmp_path: Path) -> None:
    several = threading.Barrier(4)

    class Slow(Failing):
        def predict_proba(self, texts: Sequence[str]) -> FloatArray:
            several.wait(30)
            return super().predict_proba(texts)

    prompts = [*PROMPTS[:8], PROMPTS[0]]
    rows, _ = distilled_rows(Slow(teacher, "nothing"), prompts, tmp_path / "labels.jsonl")
    assert [row.prompt for row in rows] == prompts
    assert len(read_rows([tmp_path / "labels.jsonl"])) == 8


def test_prompts_get_the_teachers_labels(teacher: BagRouter, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    rows, failures = distilled_rows(
        teacher, PROMPTS[:2], tmp_path / "labels.jsonl", lambda *call: told.append(call)
    )
    assert not failures
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
    assert len(read_rows([tmp_path / "student.labels.jsonl"])) == len(PROMPTS)
    refused = CliRunner().invoke(train, [*map(str, command), "--categories", "mine.yaml"])
    assert refused.exit_code == 2
    assert "--categories is for --distil llm=EXPERT" in refused.stderr


def test_other_teachers_are_opened_by_whom_mounts_the_command(
    teacher: BagRouter, unlabelled: Path, tmp_path: Path
) -> None:
    def open_teacher(name: str, categories: Path | None) -> AbstractContextManager[Router]:
        assert (name, categories) == ("llm=general", None)
        return nullcontext(teacher)

    command = [str(unlabelled), "--out", str(tmp_path / "s"), "--type", "bag"]
    command += ["--distil", "llm=general"]
    result = CliRunner().invoke(train, command, obj=open_teacher)
    assert result.exit_code == 0, result.output
    alone = CliRunner().invoke(train, [*command[:2], str(tmp_path / "t"), *command[3:]])
    assert alone.exit_code == 2
    assert "must be a router artifact folder" in alone.stderr
