from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eval.cli import eval_group
from eval.grading import code_of, judgement, mark_of
from eval.scorers import SCORERS
from routers.scores import read_scores

ANSWERS = {
    "clever": "The sum is 4.",
    "confused": "It is 5.",
    "coder": "Here it is:\n```python\ndef double(x):\n    return 2 * x\n```\nDone.",
    "sloppy": "```python\ndef double(x):\n    return x\n```",
}


def judged(prompt: str) -> str:
    """Mark an answer as a judge would: by what it says, and not at all when it is about 5."""
    if "It is 5" in prompt:
        return "I cannot say."
    return "A question of a score of 3 points. Mark: 8" if "The sum is 4" in prompt else "Mark: 99"


class Experts(ThreadingHTTPServer):
    """Experts that answer 2 + 2; `asked` holds who was asked, with which key."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.down = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Experts

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((body["model"], self.headers["authorization"]))
        content = ANSWERS.get(body["model"])
        if body["model"] == "judge":
            content = judged(body["messages"][0]["content"])
        broken = content is None or (self.server.down and len(self.server.asked) > 3)
        answer = {"choices": [{"message": {"content": content}}]}
        payload = json.dumps({"error": "no such model"} if broken else answer).encode()
        self.send_response(404 if broken else 200)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def experts() -> Iterator[Experts]:
    with Experts() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [
        {"id": f"{category}{i}", "prompt": "2 + 2?", "category": category, "answer": "4"}
        for category in ("sums", "more")
        for i in range(4)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run(questions: Path, experts: Experts, names: str, *options: str) -> Result:
    out = str(questions.parent / "scores.jsonl")
    asked = ["score", str(questions), "--experts", names, "--url", experts.url, "--out", out]
    return CliRunner().invoke(eval_group, [*asked, "--metric", "number", *options])


def test_answers_become_a_score_table(questions: Path, experts: Experts) -> None:
    done = run(questions, experts, "clever,confused")
    assert done.exit_code == 0, done.output
    table = read_scores([questions.parent / "scores.jsonl"])
    assert table.experts == ("clever", "confused")
    assert table.scores.mean(axis=0).tolist() == [1, 0]
    assert set(table.categories) == {"sums", "more"}


def test_a_new_expert_adds_a_column_and_asks_nobody_else(questions: Path, experts: Experts) -> None:
    run(questions, experts, "clever")
    experts.asked.clear()
    done = run(questions, experts, "clever,confused")
    assert "8 answers asked for" in done.output
    assert {name for name, _ in experts.asked} == {"confused"}
    assert read_scores([questions.parent / "scores.jsonl"]).experts == ("clever", "confused")


def test_a_cut_run_goes_on_where_it_was(questions: Path, experts: Experts) -> None:
    experts.down = True
    cut = run(questions, experts, "clever", "--concurrency", "1")
    assert cut.exit_code == 2
    assert "clever at http" in cut.output
    assert not (questions.parent / "scores.jsonl").exists()
    experts.down = False
    done = run(questions, experts, "clever")
    assert "5 answers asked for; 8 prompts" in done.output


def test_an_expert_that_there_is_not_is_told_before_the_others_work(
    questions: Path, experts: Experts
) -> None:
    done = run(questions, experts, "clever,nope")
    assert done.exit_code == 2
    assert "nope at http" in done.output
    assert [name for name, _ in experts.asked].count("clever") == 1
    done = run(questions, experts, "clever")
    assert "7 answers asked for; 8 prompts" in done.output


def column(questions: Path, expert: str) -> list[float]:
    table = read_scores([questions.parent / "scores.jsonl"])
    return [float(score) for score in table.scores[:, table.experts.index(expert)]]


def test_another_metric_or_answer_scores_what_was_answered_anew(
    questions: Path, experts: Experts
) -> None:
    run(questions, experts, "clever", "--metric", "exact")
    run(questions, experts, "confused", "--metric", "exact")
    assert column(questions, "clever") == [0] * 8
    experts.asked.clear()
    done = run(questions, experts, "confused")
    assert "0 answers asked for, 16 scored anew" in done.output
    assert (column(questions, "clever"), column(questions, "confused")) == ([1] * 8, [0] * 8)
    questions.write_text(questions.read_text().replace('"answer": "4"', '"answer": "5"'))
    assert "0 answers asked for, 16 scored anew" in run(questions, experts, "confused").output
    assert (column(questions, "clever"), column(questions, "confused")) == ([0] * 8, [1] * 8)
    assert experts.asked == []
    assert "0 answers asked for; 8 prompts" in run(questions, experts, "confused").output


def test_another_prompt_or_limit_is_asked_for_anew(questions: Path, experts: Experts) -> None:
    run(questions, experts, "clever,confused")
    done = run(questions, experts, "clever", "--max-tokens", "9")
    assert "8 answers asked for; 8 prompts" in done.output
    assert column(questions, "confused") == [0] * 8  # its limit was its own
    questions.write_text(questions.read_text().replace("2 + 2?", "What is 2 + 2?", 1))
    done = run(questions, experts, "clever", "--max-tokens", "9")
    assert "1 answers asked for; 8 prompts" in done.output
    assert column(questions, "clever") == [1] * 8
    confused = column(questions, "confused")
    assert math.isnan(confused[0])  # what it said was to another prompt
    assert confused[1:] == [0] * 7


def test_a_missing_mark_is_asked_for_again(questions: Path, experts: Experts) -> None:
    judged_by = ("--metric", "judge", "--per-category", "1", "--judge")
    run(questions, experts, "confused", *judged_by, "judge")
    experts.asked.clear()
    done = run(questions, experts, "confused", *judged_by, "judge")
    assert "0 answers asked for, 2 scored anew" in done.output
    assert {name for name, _ in experts.asked} == {"judge"}
    run(questions, experts, "clever", *judged_by, "judge")
    done = run(questions, experts, "clever", *judged_by, "coder")  # another judge, who gives none
    assert "4 scored anew" in done.output
    assert "clever: score unknown" in done.output


def test_a_line_that_was_cut_is_asked_for_again(questions: Path, experts: Experts) -> None:
    run(questions, experts, "clever")
    log = questions.parent / "scores.jsonl.answers.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    done = run(questions, experts, "clever")
    assert "1 answers asked for; 8 prompts" in done.output
    assert len(log.read_text().splitlines()) == 8


def test_a_sample_takes_as_many_of_each_category(questions: Path, experts: Experts) -> None:
    assert (
        "2 answers asked for; 2 prompts"
        in run(questions, experts, "clever", "--per-category", "1").output
    )


def test_the_key_comes_from_the_environment(
    questions: Path, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(questions, experts, "clever", "--key-env", "SCORE_KEY").exit_code == 2
    monkeypatch.setenv("SCORE_KEY", "secret")
    assert run(questions, experts, "clever", "--key-env", "SCORE_KEY").exit_code == 0
    assert {key for _, key in experts.asked} == {"Bearer secret"}


def test_an_unknown_expert_is_told(questions: Path, experts: Experts) -> None:
    done = run(questions, experts, "nobody", "--per-category", "1")
    assert done.exit_code == 2
    assert "404" in done.output
    again = run(questions, experts, "clever", "--per-category", "1")
    assert again.exit_code == 0, again.output  # what the first left behind is empty


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "sums0", "prompt": "x", "answer": "4"}', "ids must be unique; 'sums0'"),
        ('{"id": "z", "prompt": "x"}', "missing required field `answer`"),
        ('{"id": "z", "prompt": "x", "answer": "", "metric": "bleu"}', "metric must be one of"),
    ],
)
def test_bad_questions_are_refused(
    questions: Path, experts: Experts, line: str, message: str
) -> None:
    questions.write_text(f"{questions.read_text()}\n{line}\n")
    done = run(questions, experts, "clever")
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("metric", "answer", "wanted", "score"),
    [
        ("exact", " Paris. ", "paris", 1),
        ("exact", "Paris, France", "paris", 0),
        ("includes", "It is Paris, of course", "paris", 1),
        ("includes", "It is London", "paris", 0),
        ("choice", "A is wrong, so the answer is (C).", "C", 1),
        ("choice", "Answer: B", "b", 1),
        ("choice", "I would say D", "D", 1),
        ("choice", "Nobody knows", "A", 0),
        ("choice", "The correct one is C. I hope this helps!", "C", 1),
        ("choice", "B. I am sure of it.", "B", 1),
        ("choice", "C is right, as I said", "C", 1),
        ("choice", "My answer is I think C", "C", 1),
        ("choice", "My answer is I\u2019d say C", "C", 1),
        ("choice", "C. A proof would take long.", "C", 1),
        ("choice", "A", "A", 1),
        ("choice", "I", "I", 1),
        ("choice", "A is right", "A", 1),
        ("choice", "The answer is A because the others are wrong", "A", 1),
        ("choice", "The answer is 'A'.", "A", 1),
        ("choice", "Option A matches best.", "A", 1),
        ("choice", "Option A would be the best", "A", 1),
        ("choice", "The answer is A which fits best", "A", 1),
        ("choice", "The correct answer is A given that x", "A", 1),
        ("choice", "The answer is a number, so (C).", "C", 1),
        ("choice", "The correct answer is I, since all hold", "I", 1),
        ("choice", "It is (I), not B as I said. Answer: I.", "I", 1),
        ("number", "3 and 4 make 1,234.50", "1234.5", 1),
        ("number", "none", "3", 0),
        ("number", "-3", "3", 0),
    ],
)
def test_scorers(metric: str, answer: str, wanted: str, score: float) -> None:
    assert SCORERS[metric](answer, wanted) == score


def test_code_is_run_with_its_tests(questions: Path, experts: Experts) -> None:
    row = {"id": "1", "prompt": "double(x)?", "category": "code", "metric": "code"}
    questions.write_text(json.dumps({**row, "answer": "assert double(4) == 8"}))
    done = run(questions, experts, "coder,sloppy")
    assert done.exit_code == 0, done.output
    assert "coder: score 1.000, " in done.output
    table = read_scores([questions.parent / "scores.jsonl"])
    assert table.scores.tolist() == [[1, 0]]


def test_a_judge_marks_answers_and_may_give_no_mark(questions: Path, experts: Experts) -> None:
    judged_by = ("--metric", "judge", "--per-category", "1")
    refused = run(questions, experts, "clever", *judged_by)
    assert "Name one with --judge" in " ".join(refused.output.split())
    done = run(questions, experts, "clever,confused", *judged_by, "--judge", "judge")
    assert done.exit_code == 0, done.output
    assert "clever: score 0.800" in done.output
    assert "confused: score unknown" in done.output
    assert "2 without a mark" in done.output
    table = read_scores([questions.parent / "scores.jsonl"])
    assert (table.experts, table.scores.tolist()) == (("clever",), [[0.8], [0.8]])


def test_the_judge_sees_question_reference_and_answer() -> None:
    asked = judgement("why {x}?", "because", "so")
    for part in ("<question>\nwhy {x}?", "<reference>\nbecause", "<answer>\nso"):
        assert part in asked
    assert "<reference>" not in judgement("why?", "", "so")


@pytest.mark.parametrize(
    ("verdict", "mark"),
    [("Mark: 7", 0.7), ("score of 2\n**Mark:** 10", 1.0), ("Mark: 11", None), ("good", None)],
)
def test_the_last_mark_counts(verdict: str, mark: float | None) -> None:
    assert mark_of(verdict) == mark


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1", "x = 1"),
        ("```\na\n```\nand\n```python\nlonger\n```", "longer\n"),
        ("```python\ncut off", "cut off"),
    ],
)
def test_the_code_of_an_answer(answer: str, code: str) -> None:
    assert code_of(answer) == code
