from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from eval.modem import accuracy_by_domain, main
from routers.artifact import save_router
from routers.bag import BagRouter
from routers.data import Row
from tests.prompts import write_lines

PROMPTS = {
    "math": "integral sum prime",
    "medical": "fever nurse pill",
    "science": "atom planet cell",
    "coding": "python loop compiler",
    "law": "court contract judge",
    "general": "weather friend dinner",
}
ROWS = [
    Row(f"{word} number {i}", category, "mmlu")
    for category, words in PROMPTS.items()
    for word in words.split()
    for i in range(3)
]


def trained(rows: list[Row]) -> BagRouter:
    return BagRouter("toy").fit([row.prompt for row in rows], [row.category for row in rows])


def test_everything_else_is_one_domain() -> None:
    swapped = {"law": "general", "general": "law"}
    rows = [Row(row.prompt, swapped.get(row.category, row.category), "mmlu") for row in ROWS]
    assert accuracy_by_domain(trained(ROWS), rows) == {
        "math": (9, 1.0),
        "medical": (9, 1.0),
        "science": (9, 1.0),
        "coding": (9, 1.0),
        "other": (18, 1.0),
    }


def test_both_means_are_printed(tmp_path: Path) -> None:
    wrong = [Row("integral number 1", "coding", "mmlu"), Row("integral", "coding", "elsewhere")]
    data = write_lines(tmp_path / "rows.jsonl", [*ROWS, *wrong])
    save_router(trained(ROWS), tmp_path / "router", {})
    shown = CliRunner().invoke(main, [str(tmp_path / "router"), str(data)]).stdout
    assert "coding      10 0.900" in shown
    assert "over all    55 0.982" in shown
    assert "mean of domains 0.980" in shown


def test_a_router_without_the_domains_is_refused() -> None:
    with pytest.raises(ValueError, match="must know math, medical"):
        accuracy_by_domain(trained([row for row in ROWS if row.category != "math"]), ROWS)
