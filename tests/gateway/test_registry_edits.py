"""``coe experts add|set|remove|check`` on files, against servers that answer well and badly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import coe
from gateway.config import load_experts_file
from gateway.errors import ConfigError
from gateway.schema import ExpertConfig
from tests.servers import NOBODY_URL, UpstreamServer, serving

TEXT = """\
# our experts
version: 1
general: all
experts:
  - name: all  # does everything
    backend: openai
    base_url: {url}
    model: ok
mapping:
  math: [all]  # for now
"""


@pytest.fixture
def config(tmp_path: Path, upstream: UpstreamServer) -> Path:
    path = tmp_path / "experts.yaml"
    path.write_text(TEXT.format(url=upstream.base_url))
    return path


def run(config: Path, *args: str) -> Result:
    return CliRunner().invoke(coe, ["experts", *args, "--config", str(config)])


def done(config: Path, *args: str) -> dict[str, Any]:
    result = run(config, *args, "--json")
    assert result.exit_code == 0, result.output + repr(result.exception)
    return dict(json.loads(result.stdout))


def refused(config: Path, *args: str) -> str:
    before = config.read_text()
    result = run(config, *args)
    assert isinstance(result.exception, ConfigError), result.output
    assert config.read_text() == before
    return str(result.exception)


def experts(config: Path) -> dict[str, ExpertConfig]:
    return {expert.name: expert for expert in load_experts_file(config).experts}


VLLM = {"id": "org/base", "owned_by": "vllm", "parent": None, "max_model_len": 4096, "root": "/x"}
LORA = {"id": "sql lora", "owned_by": "vllm", "parent": "org/base", "root": "/lora"}


def vllm(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    if path == "/v1/models":
        return 200, {"data": [VLLM, LORA]}
    return (200, {}) if path == "/v1/chat/completions" else (404, {})


def test_a_vllm_server_is_added_with_its_adapters(config: Path) -> None:
    with serving(vllm) as url:
        shown = done(config, "add", "math", url, "--category", "math", "--description", "numbers")
    math, lora = experts(config)["math"], experts(config)["math-sql-lora"]
    assert (math.base_url, math.model, math.context_window) == (f"{url}/v1", "org/base", 4096)
    assert math.capabilities == ("tools", "json_schema")
    assert math.continuation == "continue_final_message"
    assert math.description == "numbers"
    assert (lora.model, lora.context_window) == ("sql lora", 4096)
    assert math.weights == lora.weights == "math"
    assert any("size unknown" in note for note in shown["notes"])
    text = config.read_text()
    assert text.startswith("# our experts\n")
    assert "  math: [math, all]  # for now\n" in text
    assert "+    model: org/base" in shown["diff"]


def test_adapters_take_no_name_that_is_taken(config: Path) -> None:
    with serving(vllm) as url:
        done(config, "add", "math-sql-lora", url, "--model", "sql lora")
        assert "there is an expert 'math-sql-lora' already" in refused(config, "add", "math", url)
        done(config, "add", "math", url, "--no-adapters")


def test_two_adapters_take_no_name_together(config: Path) -> None:
    def alike(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"data": [VLLM, LORA, {**LORA, "id": "sql/lora"}]}
        return vllm(path, body)

    with serving(alike) as url:
        assert "'math-sql-lora': 'sql lora' and 'sql/lora'" in refused(config, "add", "math", url)


def test_adapters_can_be_left_out_and_one_can_be_added_alone(config: Path) -> None:
    with serving(vllm) as url:
        done(config, "add", "base", f"{url}/v1", "--no-adapters")
        done(config, "add", "sql", url, "--model", "sql lora")
    assert list(experts(config)) == ["all", "base", "sql"]
    assert experts(config)["sql"].model == "sql lora"


def test_a_dry_run_shows_the_change_and_writes_nothing(config: Path) -> None:
    before = config.read_text()
    with serving(vllm) as url:
        result = run(config, "add", "math", url, "--dry-run")
    assert "+  - name: math" in result.output
    assert "note: org/base: size unknown" in result.output
    assert result.output.endswith("not written\n")
    assert config.read_text() == before


def test_a_server_that_cannot_be_trusted_is_refused(config: Path) -> None:
    with serving(lambda *_: (200, b"<html>")) as url:
        assert "must answer with a list of models" in refused(config, "add", "x", url)
        forced = done(config, "add", "x", url, "--model", "m", "--force")
    assert "not asked" in forced["notes"][0]
    assert "Start the server, or" in refused(config, "add", "y", NOBODY_URL)
    lying = {"data": [{"id": "m", "max_model_len": -1}]}
    with serving(lambda *_: (200, lying)) as url:
        shown = done(config, "add", "z", url)
    assert "claims a context of -1 tokens, which is not believed" in shown["notes"][0]
    assert experts(config)["z"].context_window is None


def test_a_key_is_named_and_never_written(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "the environment variable THE_KEY must hold the server's key; it is not set. Set it"
    assert message in refused(config, "add", "x", NOBODY_URL, "--api-key-env", "THE_KEY")
    monkeypatch.setenv("THE_KEY", "s3cr3t")
    with serving(vllm) as url:
        done(config, "add", "x", url, "--no-adapters", "--api-key-env", "THE_KEY")
    assert experts(config)["x"].api_key_env == "THE_KEY"
    assert "s3cr3t" not in config.read_text()
    monkeypatch.delenv("THE_KEY")
    shown = done(config, "set", "x", "max_queue=1")
    assert "THE_KEY (api_key_env) must hold its key" in shown["notes"][0]


def test_a_gguf_file_becomes_a_local_expert(config: Path) -> None:
    shown = done(config, "add", "small", "embedded:smollm2-135m-instruct")
    assert experts(config)["small"].backend == "local"
    assert "coe experts inspect" in shown["notes"][0]


@pytest.mark.parametrize("source", ["127.0.0.1:8001", "nowhere.gguf"])
def test_what_is_neither_a_url_nor_a_file_is_refused(config: Path, source: str) -> None:
    assert f"got '{source}'. Begin a URL with http://" in refused(config, "add", "x", source)
    done(config, "add", "x", source, "--force")
    assert experts(config)["x"].backend == "local"


def test_keys_are_set_as_they_are_written_in_the_file(config: Path) -> None:
    assignments = ["context_window=8192", "capabilities=[tools]", "timeout_s.idle=5"]
    shown = done(
        config, "set", "all", *assignments, "description=does: much", "max_concurrency=null"
    )
    expert = experts(config)["all"]
    assert (expert.context_window, expert.capabilities) == (8192, ("tools",))
    assert (expert.timeout_s.idle, expert.description) == (5, "does: much")
    assert not any(line.startswith("-") for line in shown["diff"])
    assert "  - name: all  # does everything\n" in config.read_text()
    assert "Did you mean 'max_queue'?" in refused(config, "set", "all", "maxqueue=1")
    assert "must be KEY=VALUE" in refused(config, "set", "all", "max_queue")
    assert "must be KEY=VALUE" in refused(config, "set", "all", "max_queue=[")
    assert "no expert 'x'" in refused(config, "set", "x", "max_queue=1")


def test_no_edit_leaves_the_registry_without_an_expert_that_answers(config: Path) -> None:
    message = "at least one expert must answer; none does"
    assert message in refused(config, "set", "all", f"base_url={NOBODY_URL}")
    done(config, "set", "all", f"base_url={NOBODY_URL}", "--force")
    done(config, "set", "all", "max_queue=1")  # it was so before


def test_an_expert_that_others_name_is_removed_by_force_only(config: Path) -> None:
    assert "is the last expert" in refused(config, "remove", "all", "--force")
    with serving(vllm) as url:
        done(config, "add", "new", url, "--no-adapters")
        message = "expert 'all' is named by general, mapping.math"
        assert message in refused(config, "remove", "all")
        done(config, "remove", "all", "--force")
    file = load_experts_file(config)
    assert (file.general, file.mapping) == ("new", {})
    assert "there is an expert 'new' already" in refused(config, "add", "new", NOBODY_URL)


def test_the_file_is_written_through_a_link_and_keeps_its_permissions(
    config: Path, tmp_path: Path
) -> None:
    config.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(config.name)
    done(link, "set", "all", "max_queue=1")
    assert link.is_symlink()
    assert "max_queue: 1" in config.read_text()
    assert config.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# coe experts check


def test_check_reports_a_server_that_lies_about_its_context(config: Path) -> None:
    def lying(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"data": [VLLM]}
        if body["max_tokens"] > 1000:
            return 400, {"error": {"message": "too long"}}
        if body.get("stream"):
            chunk = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            return 200, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
        message = {"role": "assistant", "content": "yes"}
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}

    with serving(lying) as url:
        done(config, "add", "liar", url)
        (row,) = checked(config, "liar")
        assert row["error"].startswith("status 400")
        assert "too long" in row["error"]
        assert row["tools"] is True
        done(config, "set", "liar", "context_window=9000")
        (row,) = checked(config, "liar")
        assert row["error"] == "context_window is 9000; its server says 4096. Correct it"
        done(config, "set", "liar", "context_window=1000")
        (row,) = checked(config, "liar")
        assert row["ok"]


def checked(config: Path, name: str) -> list[dict[str, Any]]:
    shown = json.loads(run(config, "check", "--json").output)
    return [row for row in shown["experts"] if row["name"] == name]


def test_check_warns_of_a_list_of_models_that_is_garbage(config: Path) -> None:
    (row,) = checked(config, "all")  # the stand-in lists no models
    assert row["ok"]
    assert "must answer with a list of models; it lists none" in row["warnings"][0]
    assert "it lists none. Load one there" in run(config, "check").output


def test_errors_name_the_file_by_its_own_name(config: Path) -> None:
    other = config.rename(config.with_name("e3.yaml"))
    assert refused(other, "set", "all", "context_window=-1").startswith("e3.yaml:9: experts[0]")
    broken = other.read_text().replace("version: 1", "version: 2")
    other.write_text(broken)
    for edit in (("set", "all", "model=x"), ("remove", "all"), ("add", "x", NOBODY_URL)):
        assert refused(other, *edit).startswith("e3.yaml:2: version")
