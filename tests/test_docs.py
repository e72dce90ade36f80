"""The documents say what is so: their commands are run, their tables compared with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from eval.cli import eval_group
from gateway.schema import ExpertConfig
from gateway.settings import Settings
from tests.servers import REPO, Gateway, run_gateway

README = (REPO / "README.md").read_text()
SHOWN_URL = "http://127.0.0.1:8080"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(REPO / "experts.yaml", tmp_path_factory.mktemp("docs")) as running:
        yield running


def run(command: list[str], gateway: Gateway) -> str:
    coe = f"{sys.executable} -m gateway"
    command[-1] = command[-1].replace(SHOWN_URL, gateway.url).replace(".venv/bin/coe", coe)
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=REPO)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_curl_of_the_readme_is_answered_as_shown(gateway: Gateway) -> None:
    curl = next(block for block in blocks("bash") if block.startswith("curl"))
    answer = run(["bash", "-c", curl], gateway)
    shown = next(block for block in blocks("text") if block.startswith("HTTP/1.1"))
    names = {line.split(":")[0] for line in shown.splitlines() if line.startswith("x-")}
    assert names == {line.split(":")[0] for line in answer.splitlines() if line.startswith("x-")}
    steady = ("x-coe-category", "x-coe-expert", "x-coe-reason", "x-coe-router", "x-coe-active")
    for line in shown.splitlines():
        assert not line.startswith(steady) or line in answer.splitlines()


def test_the_python_of_the_readme_runs_and_goes_to_the_medical_expert(gateway: Gateway) -> None:
    output = run([sys.executable, "-c", blocks("python")[0]], gateway)
    first, _, rest = output.partition("\n")
    assert first == "medical -> medical"
    assert rest.strip()


def test_coe_route_of_the_readme_names_a_category(gateway: Gateway) -> None:
    command = next(block for block in blocks("bash") if "coe route" in block)
    assert run(["bash", "-c", command], gateway).startswith("law (")


def test_the_expert_shown_in_the_readme_is_valid() -> None:
    for block in blocks("yaml"):
        for expert in YAML(typ="safe").load(block)["experts"]:
            ExpertConfig.model_validate(expert)


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name != "run_dir"])
def test_every_setting_is_in_the_readme(name: str) -> None:
    variable = "REDIS_URL" if name == "redis_url" else f"COE_{name.upper()}"
    row = next(line for line in README.splitlines() if line.startswith(f"| `{variable}`"))
    default = Settings.model_fields[name].default
    assert f"`{default}`" in row if default is not None else "unset" in row


@pytest.mark.parametrize("name", list(eval_group.commands))
def test_every_measuring_command_is_in_the_design_note(name: str) -> None:
    assert f"\n| `coe eval {name}` | " in (REPO / "eval" / "design.md").read_text()


@pytest.mark.parametrize("path", sorted(REPO.glob("*.md")) + sorted(REPO.glob("*/*.md")))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("target", re.findall(r"make ([a-z-]+)", README))
def test_make_targets_of_the_readme_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (REPO / "Makefile").read_text(), re.MULTILINE)
