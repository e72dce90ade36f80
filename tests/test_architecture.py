"""The budgets and import rules that keep the code small and its parts apart."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.prompts import prompt_for_the_encoder
from tests.servers import REPO, run_gateway, run_upstream, write_experts

FILE_LINES, FUNCTION_LINES, PROTOCOL_METHODS = 400, 50, 4
PACKAGES = ("gateway", "routers", "eval", "tests")
FILES = sorted(path for package in PACKAGES for path in (REPO / package).rglob("*.py"))
PRODUCT = [path for path in FILES if path.relative_to(REPO).parts[0] != "tests"]

MAY_IMPORT = {"gateway": {"gateway", "routers"}, "routers": {"routers"}}
MAY_IMPORT |= {"eval": {"gateway", "routers", "eval"}, "tests": set(PACKAGES)}
SERVING = {"artifact", "base", "card", "encoder", "finer", "keyword", "llm", "mapping"}
SERVING |= {"registry", "text"}
"""The modules of `routers` that the gateway may import."""
OFFLINE = {"gateway.mapping_commands", "gateway.mapping_run"}
"""`coe map`: joins the registry with the solver of `routers`; what serves never imports it."""
HEAVY = {"litellm", "matplotlib", "sentence_transformers", "sklearn", "torch", "vllm"}
EFFECTS = {"ClientSession", "Popen", "Redis", "Thread", "ThreadPoolExecutor", "argv", "environ"}
EFFECTS |= {"getenv", "mkdtemp", "open", "read_bytes", "read_text", "run", "socket", "write_text"}


def name_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Return the modules that import statements name."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (below & MODULES.keys()) or {node.module}
    return names


def at_import(path: Path) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: all but functions and what only types need."""
    waiting: list[ast.AST] = [tree_of(path)]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) in {
            "TYPE_CHECKING",
            "__name__ == '__main__'",
        }:
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and node.body[1:] else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
            assert lines <= FUNCTION_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_protocols_are_small_and_nothing_is_global(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        assert not isinstance(node, ast.Global)
        if isinstance(node, ast.ClassDef) and "Protocol" in {ast.unparse(b) for b in node.bases}:
            methods = [item for item in node.body if not isinstance(item, ast.AnnAssign | ast.Expr)]
            assert len(methods) <= PROTOCOL_METHODS, node.name


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_packages_import_only_what_they_may(path: Path) -> None:
    package = path.relative_to(REPO).parts[0]
    ours = {name for name in imported(ast.walk(tree_of(path))) if name.split(".")[0] in PACKAGES}
    assert {name.split(".")[0] for name in ours} <= MAY_IMPORT[package]
    if package == "gateway" and name_of(path) not in OFFLINE:
        assert not ours & OFFLINE
        routers = {name.split(".")[1] for name in ours if name.startswith("routers.")}
        assert routers <= SERVING
    assert "eval" not in ours, "write from eval.x import y: `import eval` hides the builtin"


def test_no_modules_import_each_other() -> None:
    graph = {name: imported(at_import(path)) & MODULES.keys() for name, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, naming them


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_an_import_has_no_effect(path: Path) -> None:
    for node in at_import(path):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = node.id if isinstance(node, ast.Name) else node.attr
            assert name not in EFFECTS, f"line {node.lineno}: {ast.unparse(node)}"


def loaded_by(*modules: str) -> set[str]:
    """Return the top-level names of all modules that importing `modules` loads."""
    shown = "import sys, threading; assert threading.active_count() == 1; print(*sys.modules)"
    code = "\n".join([*(f"import {name}" for name in modules), shown])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=REPO
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


def test_serving_loads_nothing_heavy() -> None:
    ours = [name for name in MODULES if name.startswith("gateway") and "__main__" not in name]
    assert {"gateway.app", "gateway.worker", "gateway.cli"} <= set(ours)
    loaded = loaded_by(*ours)
    assert "routers" in loaded
    assert not loaded & HEAVY


def test_the_command_line_starts_light() -> None:
    loaded = loaded_by("gateway", "gateway.cli", "gateway.commands")
    assert not loaded & (
        HEAVY | {"aiohttp", "fastapi", "numpy", "onnxruntime", "pydantic", "redis", "rich"}
    )


def test_help_imports_no_command() -> None:
    code = "import sys; from gateway.cli import coe; coe(['--help'], standalone_mode=False)"
    command = [sys.executable, "-c", f"{code}; print('MODULES', *sys.modules)"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    shown, _, loaded = done.stdout.partition("MODULES")
    assert "Run the gateway." in shown
    assert not {"gateway.commands", "routers.cli", "eval.cli"} & set(loaded.split())


def test_the_parent_loads_no_model() -> None:
    assert not loaded_by("gateway.serve") & (HEAVY | {"fastapi", "onnxruntime", "tokenizers"})


@pytest.mark.parametrize(
    ("module", "most"), [("gateway.cli", 150), ("gateway.serve", 800), ("gateway.app", 1000)]
)
def test_starting_loads_few_modules(module: str, most: int) -> None:
    code = f"import {module}, sys; print(len(sys.modules))"
    bare = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPO, env=bare, capture_output=True, check=True)
    assert int(done.stdout) <= most


def test_a_gateway_that_has_answered_has_loaded_few_modules(tmp_path: Path) -> None:
    """Those of the parent and of its worker together."""
    with run_upstream() as upstream:
        experts = [{"name": "ok", "base_url": upstream.base_url}]
        config = write_experts(tmp_path / "experts.yaml", experts, {}, router="routers/default")
        with run_gateway(config, tmp_path, PYTHONPROFILEIMPORTTIME="1") as gateway:
            assert gateway.chat("auto", prompt_for_the_encoder()).status_code == 200
            log = gateway.settled_log()
    loaded = set(re.findall(r"^import time:.*\| +([\w.]+)$", log, re.MULTILINE))
    assert {"gateway.serve", "gateway.app", "onnxruntime"} <= loaded
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert len(loaded) <= 1250
