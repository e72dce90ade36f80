"""What is installed: locked with hashes, audited, and never a release that is forbidden."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from routers.artifact import DEFAULT_FOLDER, read_card
from tests.servers import REPO

FORBIDDEN = ("1.82.7", "1.82.8", "1.107.0")
PYPROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def pins(name: str) -> dict[str, str]:
    """Return name -> version of the exact requirements in a file."""
    text = (REPO / "requirements" / name).read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", text, re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


def test_every_serving_dependency_is_locked_at_the_version_that_is_tested() -> None:
    locked, tested = pins("serve.lock"), pins("constraints.txt")
    for dependency in map(Requirement, PROJECT["dependencies"]):
        version = locked[canonicalize_name(dependency.name)]
        assert dependency.specifier.contains(version), f"run make lock: {dependency}"
    assert all(tested.get(name, version) == version for name, version in locked.items())


@pytest.mark.parametrize("name", ["serve.lock", "model.lock"])
def test_every_locked_release_has_a_hash(name: str) -> None:
    text = (REPO / "requirements" / name).read_text().replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line.strip()]
    assert entries
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_every_file_of_the_default_router_is_packaged() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["routers"]
    packaged = {path for pattern in patterns for path in (REPO / "routers").glob(pattern)}
    assert {DEFAULT_FOLDER / name for name in read_card(DEFAULT_FOLDER).files} <= packaged


def test_forbidden_releases_are_excluded() -> None:
    text = (REPO / "requirements/forbidden.txt").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("litellm")]
    allowed = Requirement(line).specifier
    assert not [version for version in FORBIDDEN if allowed.contains(version)]
    assert allowed.contains("1.106.2")
    for name in ("constraints.txt", "serve.lock"):
        pinned = pins(name).get("litellm")
        assert pinned is None or allowed.contains(pinned)
    groups = PROJECT["optional-dependencies"].values()
    for dependency in map(Requirement, (one for group in groups for one in group)):
        if dependency.name == "litellm":
            assert not [v for v in FORBIDDEN if dependency.specifier.contains(v)]


def test_nothing_is_installed_without_the_exclusions() -> None:
    makefile = (REPO / "Makefile").read_text()
    assert "-c requirements/constraints.txt -c requirements/forbidden.txt" in makefile
    for line in makefile.splitlines():
        if "pip install" in line and " -e " in line:
            assert "requirements/forbidden.txt" in line, line


def audit(report: str) -> tuple[int, str]:
    command = [sys.executable, "requirements/audit.py"]
    done = subprocess.run(command, input=report, capture_output=True, text=True, cwd=REPO)
    return done.returncode, done.stdout


GOOD: dict[str, Any] = {"name": "good", "version": "1", "vulns": []}
BAD: dict[str, Any] = {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
UNKNOWN: dict[str, Any] = {"name": "unknown", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([GOOD], 0, "1 locked releases have no known vulnerability."),
        ([GOOD, UNKNOWN], 0, "NOT AUDITED: unknown"),
        ([GOOD, BAD, UNKNOWN], 1, "bad 2: PYSEC-1"),
        ([UNKNOWN], 0, "NOT AUDITED: the vulnerability service knows none"),
    ],
)
def test_the_audit_says_what_it_knows(found: list[dict[str, Any]], code: int, said: str) -> None:
    ended, text = audit(json.dumps({"dependencies": found, "fixes": []}))
    assert (ended, said in text) == (code, True), text


@pytest.mark.parametrize("report", ["", "Traceback ...", "[]"])
def test_an_unreachable_service_is_no_good_result(report: str) -> None:
    ended, text = audit(report)
    assert ended == 0
    assert text.startswith("audit: NOT AUDITED: the vulnerability service cannot be reached")
