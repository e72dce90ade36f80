"""The command line, through `coe` itself."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import psutil
import pytest
from click.testing import CliRunner, Result

from gateway.cli import coe, main
from tests.servers import NOBODY_URL, REPO, Gateway, UpstreamServer, write_experts

CODING = "Write a Python function that sorts a list of integers with quicksort."


def run(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(coe, list(args), input=stdin)


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command, groups left out."""
    with click.Context(group) as ctx:
        for name in group.list_commands(ctx):
            command = group.get_command(ctx, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from commands(command, *path, name)
            else:
                yield (*path, name)


def examples(path: tuple[str, ...]) -> list[str]:
    """Return the lines of the examples in a command's help."""
    _, _, below = run(*path, "--help").output.partition("Examples:\n")
    return [line.strip() for line in below.splitlines() if line.strip()]


def test_help_lists_the_commands() -> None:
    shown = run("--help")
    assert shown.exit_code == 0
    assert {"serve", "route", "experts", "train"} <= set(shown.output.split())
    assert run("-h").output == shown.output
    assert run("--version").exit_code == 0


def test_a_command_typed_wrongly_is_told_with_the_one_meant() -> None:
    typed = run("rout")
    assert typed.exit_code == 2
    assert "Did you mean 'route'?" in typed.output
    assert "mean" not in run("xyzzy").output


def test_help_says_of_each_command_what_its_own_does() -> None:
    shown = run("--help").output
    with click.Context(coe) as ctx:
        for name in coe.list_commands(ctx):
            command = coe.get_command(ctx, name)
            assert command is not None
            assert f"  {name:9}  {command.get_short_help_str(80)}\n" in shown


@pytest.mark.parametrize("group", [[], ["experts"], ["keys"], ["eval"]])
def test_what_a_command_does_is_said_in_a_line(group: list[str]) -> None:
    _, _, commands_shown = run(*group, "--help").output.partition("Commands:\n")
    assert commands_shown
    assert "..." not in commands_shown


def test_every_command_has_examples_that_it_understands() -> None:
    for path in commands(coe):
        starts = [line for line in examples(path) if "coe " in line]
        assert starts, path
        for line in starts:
            words = shlex.split(line.rstrip("\\").partition(" | ")[0])
            words = words[words.index("coe") + 1 :]
            assert tuple(words[: len(path)]) == path
            understood(words)


def understood(words: list[str]) -> None:
    """Check that the options of a command line exist."""
    command: click.Command = coe
    ctx = click.Context(coe)
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(ctx, name)
        assert found is not None, name
        command, ctx = found, click.Context(found, parent=ctx)
    command.make_parser(ctx).parse_args(words)  # raises click.NoSuchOption


# coe route


def config_of(gateway: Gateway) -> str:
    return str(gateway.log_path.with_name("experts.yaml"))


def test_route_as_json_says_what_the_gateway_says(gateway: Gateway) -> None:
    prompt = f"{CODING} Ticket {uuid4().hex}."
    shown = run("route", prompt, "--config", config_of(gateway), "--json")
    assert shown.exit_code == 0
    said = json.loads(shown.output)
    wanted = {"category", "confidence", "probabilities", "expert", "ranked", "reason", "router"}
    assert wanted | {"active_params_b"} <= said.keys()
    assert said["cache"] == "off"
    served = gateway.post("/v1/route", json={"prompt": prompt}).json()
    assert said == {**served, "cache": "off"}
    assert gateway.chat("auto", prompt).headers["x-coe-expert"] == said["expert"]


@pytest.mark.parametrize("from_stdin", [False, True])
def test_route_reads_a_file(tmp_path: Path, from_stdin: bool) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(CODING, encoding="utf-8")
    source = "-" if from_stdin else str(path)
    config = str(REPO / "experts.yaml")
    shown = run("route", "--file", source, "--config", config, "--json", stdin=CODING)
    assert json.loads(shown.output)["read"]["text"] == CODING


@pytest.mark.parametrize("from_stdin", [False, True])
def test_route_takes_a_conversation(gateway: Gateway, tmp_path: Path, from_stdin: bool) -> None:
    turns = [("user", CODING), ("assistant", "def quicksort(): ..."), ("user", "Again, please.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"model": "auto", "messages": messages}))
    source, config = "-" if from_stdin else str(path), config_of(gateway)
    args = ("route", "--request", source, "--config", config, "--json")
    said = json.loads(run(*args, stdin=path.read_text()).output)
    assert said["category"] == "coding"
    served = gateway.post("/v1/route", json={"messages": messages}).json()
    assert (said["expert"], said["probabilities"]) == (served["expert"], served["probabilities"])


def test_route_takes_a_model(gateway: Gateway, tmp_path: Path) -> None:
    config = config_of(gateway)
    pinned = run("route", CODING, "--model", "terse", "--config", config)
    assert pinned.output.startswith("pinned -> terse")
    wrong = run("route", CODING, "--model", "auto:tiny", "--config", config)
    assert wrong.exit_code == 2
    assert "'model' must be one of: auto, good" in wrong.output
    path = tmp_path / "request.json"
    path.write_text('{"messages": []}')
    empty = run("route", "--request", str(path), "--config", config)
    assert (empty.exit_code, "'messages'" in empty.output) == (2, True)
    assert run("route", CODING, "--request", str(path)).exit_code == 2


def test_route_for_people_names_the_expert_and_the_fallbacks(tmp_path: Path) -> None:
    experts: list[dict[str, Any]] = [
        {"name": "general", "base_url": NOBODY_URL},
        {"name": "coder", "base_url": NOBODY_URL, "active_params_b": 7},
    ]
    config = write_experts(tmp_path / "e.yaml", experts, {"coding": ["coder"]}, min_confidence=0)
    shown = run("route", CODING, "--config", str(config))
    assert "-> coder" in shown.output
    assert "fallbacks: general" in shown.output
    assert "7.0" in shown.output
    experts[1]["active_params_b"] = None
    write_experts(config, experts, {"coding": ["coder"]}, min_confidence=0)
    assert "active parameters: unknown" in run("route", CODING, "--config", str(config)).output


def test_route_says_what_was_read_of_a_long_prompt(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Write a Python function that parses logs. " * 257, encoding="utf-8")
    asked = ("route", "--file", str(path), "--config", str(REPO / "experts.yaml"))
    read = json.loads(run(*asked, "--json").output)["read"]
    by_part = {one["part"]: one for one in read["windows"]}
    assert by_part["bag"] == {"part": "bag", "head_chars": 600, "tail_chars": 300}
    assert 0 < by_part["encoder"]["tail_chars"] < by_part["encoder"]["head_chars"] < 600
    shown = " ".join(run(*asked).output.split())
    of = read["of"]
    assert f"read: {of['chars_read']:,} of {of['chars_total']:,} characters; " in shown
    assert "; bag: the first 600 and the last 300; " in shown
    assert f"; encoder: the first {by_part['encoder']['head_chars']} and the last " in shown


def test_route_says_nothing_of_what_was_read_whole() -> None:
    asked = ("route", CODING, "--config", str(REPO / "experts.yaml"))
    assert json.loads(run(*asked, "--json").output)["read"]["windows"] == []
    assert "read:" not in run(*asked).output


def test_route_of_a_front_ends_own_prompt_says_that_nothing_was_classified() -> None:
    prompt = "### Task:\nGenerate a concise, 3-5 word title with an emoji"
    shown = run("route", prompt, "--config", str(REPO / "experts.yaml"))
    assert shown.exit_code == 0
    assert shown.output.startswith("background -> ")


def test_route_of_a_prompt_that_fits_no_expert_says_so(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("x " * 40_000)
    shown = run("route", "--file", str(path), "--config", str(REPO / "experts.yaml"))
    assert shown.exit_code == 2
    assert "characters" in shown.output
    messages = [{"role": "user", "content": "hello"}]
    path.write_text(json.dumps({"messages": messages, "max_tokens": 10**6}))
    long = run("route", "--request", str(path), "--config", str(REPO / "experts.yaml"))
    assert (long.exit_code, "may take 1000000 tokens" in long.output) == (2, True)


def test_route_of_what_the_router_is_unsure_of_names_the_likeliest_category(tmp_path: Path) -> None:
    experts = [{"name": "general", "base_url": NOBODY_URL}]
    config = write_experts(tmp_path / "e.yaml", experts, {}, min_confidence=1)
    shown = run("route", CODING, "--config", str(config))
    assert re.match(r"general \(coding \d+\.\d%, low_confidence\) -> general\n", shown.output)
    assert re.search(r"^lead over general: 0\.\d+; enough is 1\.000$", shown.output, re.M)
    said = json.loads(run("route", CODING, "--config", str(config), "--json").output)
    chances = said["probabilities"]
    assert said["lead"] == pytest.approx(chances["coding"] - chances["general"])
    assert (said["threshold"], said["mapped"]) == (1, False)


def test_route_of_a_category_that_the_mapping_leaves_out_says_so(tmp_path: Path) -> None:
    experts = [{"name": "small", "base_url": NOBODY_URL}]
    config = write_experts(tmp_path / "e.yaml", experts, {}, min_confidence=0)
    shown = run("route", CODING, "--config", str(config)).output
    assert "routed) -> small: the mapping has no coding, so the general expert\n" in shown
    write_experts(config, experts, {"coding": ["small"]}, min_confidence=0)
    assert "the mapping" not in run("route", CODING, "--config", str(config)).output
    assert json.loads(run("route", CODING, "--config", str(config), "--json").output)["mapped"]


def test_route_names_the_keyword_that_decides(tmp_path: Path) -> None:
    experts = [{"name": "general", "base_url": NOBODY_URL}]
    ranks = {"finance": ["general"]}
    keywords = {"finance": ["giro", "IBAN [de]", "/[a-z]*iban/"], "law": ["changed"]}
    config = write_experts(tmp_path / "e.yaml", experts, ranks, keywords=keywords)
    shown = run("route", "My iban [DE] changed", "--config", str(config)).output
    assert shown.startswith("finance (100.0%, keyword 'IBAN [de]') -> general\nfallbacks")
    shown = run("route", "My IBAN changed", "--config", str(config), "--json").output
    assert json.loads(shown)["keyword"] == "/[a-z]*iban/"


def test_route_of_an_empty_prompt_still_decides() -> None:
    shown = run("route", "", "--config", str(REPO / "experts.yaml"), "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.output)["expert"]


# coe experts


def test_list_as_json(tmp_path: Path) -> None:
    experts = [
        {"name": "general", "base_url": NOBODY_URL, "model": "m", "total_params_b": 8},
        {"name": "coder", "base_url": NOBODY_URL, "active_params_b": 1.5},
    ]
    mapping = {"coding": ["coder", "general"], "math": ["coder"], "law": ["general"]}
    config = write_experts(tmp_path / "e.yaml", experts, mapping)
    shown = json.loads(run("experts", "list", "--config", str(config), "--json").output)
    assert shown["general"] == "general"
    assert shown["resident_params_b"] == 8
    assert shown["unknown_weights"] == ["coder"]
    general, coder = shown["experts"]
    assert (general["model"], general["address"]) == ("m", NOBODY_URL)
    assert coder["first_for"] == ["coding", "math"]
    assert coder["active_params_b"] == 1.5
    for_people = run("experts", "list", "--config", str(config)).output
    assert "size unknown, not counted: coder" in for_people
    assert "resident: 8 B" in for_people


def test_list_keeps_names_whole_in_80_columns() -> None:
    shown = run("experts", "list", "--config", str(REPO / "experts.yaml")).output
    names = {line.split()[0] for line in shown.splitlines() if "local" in line}
    assert {"general", "multilingual"} <= names


def test_check_tells_who_answers(upstream: UpstreamServer, tmp_path: Path) -> None:
    url = upstream.base_url
    experts = [{"name": "fine", "base_url": url, "model": "ok"}]
    config = write_experts(tmp_path / "e.yaml", experts, {})
    shown = run("experts", "check", "--config", str(config), "--json")
    assert shown.exit_code == 0
    (row,) = json.loads(shown.output)["experts"]
    assert row["ok"]
    assert row["whole_ms"] >= 0
    assert row["stream_ms"] >= 0
    assert run("experts", "check", "--config", str(config)).exit_code == 0


BROKEN = {
    "status-401": "see its api_key_env",
    "status-400": "status 400",
    "unfinished": "the stream has no end",
    "cut": "broke the connection",
    "garbage": "not a valid completion",
    "empty": "the stream has no end",
}


def test_check_tells_who_does_not_and_why(upstream: UpstreamServer, tmp_path: Path) -> None:
    url = upstream.base_url
    experts = [{"name": name, "base_url": url, "model": name} for name in ("ok", *BROKEN)]
    experts.append({"name": "nobody", "base_url": NOBODY_URL, "model": "x"})
    config = write_experts(tmp_path / "e.yaml", experts, {})
    shown = run("experts", "check", "--config", str(config), "--json")
    assert shown.exit_code == 1
    rows = {row["name"]: row for row in json.loads(shown.output)["experts"]}
    assert [name for name, row in rows.items() if row["ok"]] == ["ok"]
    for name, reason in {**BROKEN, "nobody": "cannot be reached"}.items():
        assert reason in rows[name]["error"]
    assert "failed" in run("experts", "check", "--config", str(config)).output


def test_check_runs_local_experts_for_as_long_as_it_lasts(tmp_path: Path) -> None:
    local = {"name": "small", "backend": "local", "model": "embedded:smollm2-135m-instruct"}
    config = write_experts(tmp_path / "e.yaml", [{**local, "context_window": 512}], {})
    shown = run("experts", "check", "--config", str(config), "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["ok"]
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not any("gateway.supervisor.llama" in command for command in commands)


# wrong use


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["route"],
        ["route", "a", "--file", "-"],
        ["route", "--file", "/nowhere"],
        ["route", "a", "--nonsense"],
        ["experts"],
        ["experts", "nonsense"],
        ["serve", "--port", "x"],
    ],
)
def test_wrong_use_ends_with_2(args: list[str]) -> None:
    shown = run(*args)
    assert shown.exit_code == 2
    assert "Usage: coe" in shown.output


@pytest.mark.parametrize("command", [["route", "hello"], ["experts", "list"], ["experts", "check"]])
def test_a_broken_configuration_ends_with_2_and_one_message(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["coe", *command, "--config", "nowhere.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: nowhere.yaml not found. Name the file with --config")
