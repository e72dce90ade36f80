"""`coe experts` against a real vLLM server, and the `vllm serve` commands of docs/experts.md."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import coe
from gateway.experts import ExpertRegistry
from tests.servers import REPO, write_experts
from tests.vllm.conftest import VLLM
from tests.vllm.servers import ENVIRONMENT, VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

PARSE = """
import sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
for line in sys.stdin:
    make_arg_parser(FlexibleArgumentParser()).parse_args(line.split()[2:])
"""


def test_a_server_is_added_with_its_adapter_and_both_are_checked(
    vllm: VllmServer, tmp_path: Path
) -> None:
    expert = {"name": "general", "base_url": vllm.base_url, **VLLM}
    config = write_experts(tmp_path / "experts.yaml", [expert], {})
    for command in (["add", "smol", vllm.base_url], ["check", "--json"]):
        result = CliRunner().invoke(coe, ["experts", *command, "--config", str(config)])
        assert result.exit_code == 0, result.output
    registry = ExpertRegistry.load(config)
    assert list(registry) == ["general", "smol", "smol-twisted"]
    assert registry["smol"].total_params_b == pytest.approx(0.1345, rel=0.01)
    assert registry["smol"].weights == registry["smol-twisted"].weights
    assert registry["smol-twisted"].context_window == 2048
    assert all(row["ok"] for row in json.loads(result.stdout)["experts"])


def test_the_flags_of_the_page_are_those_of_vllm() -> None:
    text = (REPO / "docs/experts.md").read_text()
    lines = re.findall(r"^\$ (vllm serve .*)$", text, re.M)
    assert len(lines) == 2
    program = [str(ENVIRONMENT / "bin/python"), "-c", PARSE]
    done = subprocess.run(program, input="\n".join(lines), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
