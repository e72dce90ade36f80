"""docs/routers.md: a reader goes through it from top to bottom."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import coe
from routers.data import read_rows
from routers.untrained import TYPES
from tests.prompts import toy_rows
from tests.servers import REPO

TEXT = (REPO / "docs/routers.md").read_text()
COMMANDS = re.findall(r"^\$ coe (.*)$", TEXT, re.MULTILINE)
CATEGORIES = {"coding": "technical", "cooking": "billing", "general": "shipping"}
"""Of the prompts that the tests have, as the page calls them."""
EXPERTS = """
version: 1
general: small
experts:
  - {name: small, backend: openai, base_url: http://127.0.0.1:1/v1, model: m}
  - {name: coder, backend: openai, base_url: http://127.0.0.1:1/v1, model: m}
"""


def block(language: str) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reader works, with a table of tickets."""
    monkeypatch.chdir(tmp_path)
    rows = [f'"{row.prompt}",{CATEGORIES[row.category]}' for row in toy_rows()]
    (tmp_path / "tickets.csv").write_text("\n".join(["\ufefftext,label", *rows]), encoding="utf-8")
    (tmp_path / "chatter.jsonl").write_text('{"prompt": "hello"}\n{"prompt": "tell me a joke"}\n')
    return tmp_path


def test_a_reader_trains_measures_serves_and_calibrates(folder: Path) -> None:
    exec(block("python"), {})
    prompts = (folder / "prompts.jsonl").read_text()
    assert json.loads(prompts.splitlines()[0]).keys() == {"prompt", "category"}
    for name in ("fresh.jsonl", "recent.jsonl"):
        (folder / name).write_text(prompts)
    for command in COMMANDS:
        if command.startswith("route"):
            (folder / "experts.yaml").write_text(EXPERTS + block("yaml"))
        done = CliRunner().invoke(coe, shlex.split(command))
        assert done.exit_code == 0, done.output
    assert "<svg" in (folder / "report.html").read_text()
    assert (folder / "mistakes.jsonl").exists()


def test_the_lines_that_are_shown_are_prompts(folder: Path) -> None:
    (folder / "shown.jsonl").write_text(block("json"))
    rows = read_rows([folder / "shown.jsonl"])
    assert {row.category for row in rows} == set(CATEGORIES.values())


def test_every_type_is_told_of() -> None:
    for name in TYPES:
        assert f"`{name}`" in TEXT
