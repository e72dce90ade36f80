"""`coe eval bench` as a command: what it refuses, and what it writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eval.bench.report import markdown
from eval.bench.stamp import stamp
from eval.cli import eval_group

needs_tools = pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("wrk")), reason="needs nginx and wrk"
)


def bench(*options: str) -> Result:
    return CliRunner().invoke(eval_group, ["bench", *options])


def test_a_folder_whose_readme_has_no_place_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my own notes")
    done = bench("--out", str(tmp_path))
    assert done.exit_code == 2
    assert "README.md must hold <!-- written by coe eval bench -->" in done.stderr
    assert (tmp_path / "README.md").read_text() == "my own notes"


@pytest.mark.parametrize("seconds", ["0.5", "2.5"])
def test_runs_last_whole_seconds_as_wrk_measures_them(seconds: str) -> None:
    done = bench("--seconds", seconds)
    assert done.exit_code == 2
    assert f"'{seconds}' is not a valid integer" in " ".join(done.stderr.split())


def test_a_missing_folder_of_rivals_is_refused(tmp_path: Path) -> None:
    done = bench("--rivals", str(tmp_path / "typo"))
    assert done.exit_code == 2
    assert "--rivals must be a folder; got " in done.stderr


@needs_tools
def test_an_unknown_group_is_refused(tmp_path: Path) -> None:
    (tmp_path / "portkey").mkdir()
    done = bench("--only", "relay,litelm", "--rivals", str(tmp_path))
    assert done.exit_code == 2
    message = "--only must be of relay, coe, coe+redis, coe full, portkey; got litelm"
    assert message in " ".join(done.stderr.split())


@needs_tools
def test_a_new_folder_is_made_and_streams_alone_need_no_plot(tmp_path: Path) -> None:
    out = tmp_path / "new" / "bench"
    one = ("--rounds", "1", "--seconds", "1", "--workers", "1", "--only", "relay")
    done = bench("--quick", "--case", "stream-20@1", *one, "--out", str(out), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads((out / "bench.json").read_text())
    assert json.loads(done.stdout) == found
    assert (found["rounds"], found["seconds"], found["rivals"]) == (1, 1, {})
    assert all(found[key] for key in ("date", "commit", "machine", "python"))
    readme = (out / "README.md").read_text()
    assert "| relay x1 |" in readme
    assert f"Rows are of one round of 1 s. Measured on {found['date']} at commit" in readme
    assert not (out / "bench.png").exists()


def test_a_run_says_which_rivals_it_measured(tmp_path: Path) -> None:
    packages = tmp_path / "vllm-router" / "lib" / "python3.11" / "site-packages"
    for name, version in {"vllm_router": "0.1.17", "other": "9"}.items():
        folder = packages / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    package = tmp_path / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "package.json"
    package.parent.mkdir(parents=True)
    package.write_text('{"version": "1.15.2"}')
    made = stamp([0, 1], tmp_path)
    assert made["rivals"] == {"portkey": "1.15.2", "vllm-router": "0.1.17"}
    told = markdown({**made, "rounds": 3, "seconds": 2, "rows": []})
    assert "Rows are the medians of 3 rounds of 2 s. Measured on 2" in told
    assert told.rstrip().endswith(", portkey 1.15.2, vllm-router 0.1.17.")
