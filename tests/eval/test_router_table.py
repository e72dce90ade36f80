from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eval.router_table import Undecided, main
from routers.artifact import save_router
from routers.bag import BagRouter
from routers.base import RouterError
from routers.llm import LlmRouter
from tests.prompts import toy_rows, write_lines


def run(folder: Path, *more: object) -> Result:
    rows = toy_rows()
    router = BagRouter("toy").fit([row.prompt for row in rows], [row.category for row in rows])
    save_router(router, folder / "toy", {})
    data = write_lines(folder / "exam.jsonl", rows)
    arguments = [folder / "toy", "--data", data, *more]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_table_is_printed(tmp_path: Path) -> None:
    header, rule, row = run(tmp_path).stdout.splitlines()
    assert header == (
        "| router | 10^6 parameters | exam | typed otherwise / a sentence added "
        "| ms at 20 / 100 / 500 words |"
    )
    assert header.count("|") == rule.count("|") == row.count("|")
    otherwise, added = map(float, row.split("|")[4].split("/"))
    assert 0.9 < otherwise <= 1 >= added > 0.9
    assert row.startswith("| toy (bag) | 0.0 | 1.000 (0.979 to 1.000) / 1.000 / ")


@pytest.mark.timeout(300)  # a language model answers one prompt after the other
def test_an_expert_is_measured_as_a_router(tmp_path: Path) -> None:
    row = run(tmp_path, "--llm", "general", "--llm-rows", 2).stdout.splitlines()[-1]
    assert row.startswith("| llm-general (llm), 2 rows of each set | 134.5 | ")
    assert min(map(float, row.split("|")[-2].split("/"))) > 0


def test_where_an_expert_does_not_answer_all_categories_are_alike() -> None:
    def ask(body: dict[str, Any]) -> dict[str, Any]:
        if "riddle" in body["messages"][1]["content"]:
            raise RouterError("no answer")
        top = [{"token": "B", "logprob": -0.1}]
        return {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}

    categories = {"law": "statutes", "math": "sums"}
    router = Undecided(LlmRouter(ask, "toy", "here", categories, 0.1))
    assert router.predict_proba(["a riddle", "2 + 2"]).tolist() == [[0.5, 0.5], [0.0, 1.0]]


def test_an_expert_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, "--llm", "nobody")
    assert result.exit_code == 2
    assert "llm=nobody: no expert 'nobody'. Allowed: general" in result.stderr


def test_the_table_is_written_between_the_marks(tmp_path: Path) -> None:
    note = tmp_path / "note.md"
    start, end = "<!-- table: python -m eval.router_table -->", "<!-- end of table -->"
    note.write_text(f"before\n{start}\nold\n{end}\nafter\n")
    assert run(tmp_path, "--write", note).exit_code == 0
    text = note.read_text()
    assert text.startswith(f"before\n{start}\n| router |")
    assert text.endswith(f"|\n{end}\nafter\n")
    assert "old" not in text


def test_a_note_without_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text("nothing")
    result = run(tmp_path, "--write", tmp_path / "note.md")
    assert result.exit_code == 2
    assert "note.md must hold <!-- table" in result.stderr
