from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path

from click.testing import CliRunner

from eval.replay_tables import TABLES, main


def test_every_table_is_replayed_into_one_report(tmp_path: Path) -> None:
    experts = sorted({name for table in TABLES for name in (table.experts or "").split(",")} - {""})
    with (tmp_path / "models.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["model", "total_params_b", "active_params_b"])
        rows.writerows([name, size, size] for size, name in enumerate(experts, start=1))
    lines = [
        {
            "id": f"{i}",
            "prompt": f"question {i}",
            "category": f"c{i % 2}",
            "scores": {expert: (i + at) % 2 for at, expert in enumerate(experts)},
        }
        for i in range(24)
    ]
    for name in {name for table in TABLES for name in table.files}:
        text = "\n".join(json.dumps({**line, "id": f"{name} {line['id']}"}) for line in lines)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    out = tmp_path / "out"
    asked = [str(tmp_path), "--out", str(out), "--cache", str(tmp_path / "cache")]
    asked += ["--methods", "true_category"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    text = (out / "README.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [table.name for table in TABLES]
    assert text.count("| true_category |") == len(TABLES)
    assert len(re.findall(r"embedded by the router default@\w+\.", text)) == len(TABLES)
    for shown in re.findall(r"\]\((\w+\.png)\)", text):
        assert (out / shown).read_bytes().startswith(b"\x89PNG")
