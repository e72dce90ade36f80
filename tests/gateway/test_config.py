from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML

from gateway.config import load_experts_file, parse_experts_file
from gateway.errors import ConfigError
from gateway.experts import ExpertRegistry
from gateway.schema import ExpertConfig, ExpertsFile, Runtime, Timeouts, json_schema
from tests.servers import REPO

VALID = """\
version: 1
general: general
experts:
  - name: general
    backend: openai
    base_url: http://127.0.0.1:8001/v1
    model: some-model
    total_params_b: 7
    weights: w
  - &math
    name: math
    backend: openai
    base_url: http://127.0.0.1:8002/v1
    model: math-model
    timeout_s: {connect: 2}
  - <<: *math
    name: algebra
  - <<: *math
    name: geometry
mapping:
  math: [math, general]
  general: [general]
"""


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_experts_file(text)
    return str(caught.value).splitlines()


def test_the_valid_text_is_valid() -> None:
    parsed = parse_experts_file(VALID)
    assert [expert.name for expert in parsed.experts] == ["general", "math", "algebra", "geometry"]
    assert parsed.experts[2].model == "math-model"
    assert parsed.experts[0].timeout_s == Timeouts()


# replaced text, its replacement, and the whole message
FAULTS = [
    (
        "    model: math-model",
        "    temprature: 1\n    model: math-model",
        "experts.yaml:14: experts[1].temprature is not a key. Allowed: name, description, ",
    ),
    (
        "    weights: w",
        "    weight: w",
        "experts.yaml:9: experts[0].weight is not a key. Did you mean 'weights'? Allowed: name, ",
    ),
    (
        "{connect: 2}",
        "{conect: 2}",
        "experts.yaml:15: experts[1].timeout_s.conect is not a key. Did you mean 'connect'? "
        "Allowed: connect, first_token, idle, total",
    ),
    (
        "version: 1",
        "version: 1\nrooter: x",
        "experts.yaml:2: rooter is not a key. Did you mean 'router'? Allowed: version, router, ",
    ),
    ("version: 1", "version: 2", "experts.yaml:1: version must be 1; got 2"),
    (
        "name: algebra",
        "name: math",
        "experts.yaml:17: experts[2].name must be unique; 'math' is also experts[1]. Rename one",
    ),
    (
        "backend: openai",
        "backend: opnai",
        "experts.yaml:5: experts[0].backend must be 'openai', 'local' or 'litellm'; got 'opnai'",
    ),
    (
        "    base_url: http://127.0.0.1:8001/v1\n",
        "",
        "experts.yaml:4: experts[0].base_url is missing; backend openai needs it. Write the "
        "server's address, e.g. http://localhost:8000/v1",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "localhost:8001",
        "experts.yaml:6: experts[0].base_url must be an http(s) URL; got "
        "'localhost:8001'. Write http://localhost:8001/v1",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "ftp://host/v1",
        "experts.yaml:6: experts[0].base_url must be an http(s) URL; got 'ftp://host/v1'. "
        "Write http://host/v1",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "http://host:99999/v1",
        "experts.yaml:6: experts[0].base_url must be an http(s) URL; got ",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "'http://[::1'",
        "experts.yaml:6: experts[0].base_url must be an http(s) URL; got ",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "http://me:secret@host/v1",
        "experts.yaml:6: experts[0].base_url must hold no spaces and no user:password; got one "
        "that is not shown as it may hold a key. Use api_key_env for a key",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "http://host/v1?key=x",
        "experts.yaml:6: experts[0].base_url must end with its path, such as /v1; got one that "
        "is not shown as it may hold a key. Remove what follows it",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "http://host/v1/chat/completions",
        "experts.yaml:6: experts[0].base_url must end before /chat/completions; got "
        "'http://host/v1/chat/completions'. Remove that",
    ),
    (
        "http://127.0.0.1:8001/v1",
        "8001",
        "experts.yaml:6: experts[0].base_url must be text; got 8001",
    ),
    (
        "total_params_b: 7",
        "total_params_b: -7",
        "experts.yaml:8: experts[0].total_params_b must be greater than 0; got -7",
    ),
    (
        "total_params_b: 7",
        "total_params_b: .nan",
        "experts.yaml:8: experts[0].total_params_b must be less than or equal to 100000; got nan",
    ),
    (
        "total_params_b: 7",
        "total_params_b: '7'",
        "experts.yaml:8: experts[0].total_params_b must be a number; got '7'. Write the number "
        "alone, without a unit and without quotes",
    ),
    (
        "total_params_b: 7",
        "active_params_b: 8\n    total_params_b: 7",
        "experts.yaml:8: experts[0].active_params_b must be at most total_params_b (7.0); got 8.0",
    ),
    (
        "{connect: 2}",
        "{connect: 0}",
        "experts.yaml:15: experts[1].timeout_s.connect must be greater than 0; got 0",
    ),
    (
        "[math, general]",
        "[maths, general]",
        "experts.yaml:21: mapping.math[0] must name an expert; got 'maths'. Did you mean 'math'? "
        "Allowed: general, math, algebra, geometry",
    ),
    (
        "[math, general]",
        "[]",
        "experts.yaml:21: mapping.math must have at least 1 item; got []. Name an expert, or leave "
        "the category out: it then goes to `general`",
    ),
    (
        "[math, general]",
        "math",
        "experts.yaml:21: mapping.math must be a list; got 'math'. Write [math]",
    ),
    (
        "general: general\nexperts",
        "general: genral\nexperts",
        "experts.yaml:2: general must name an expert; got 'genral'. Did you mean 'general'? ",
    ),
    (
        "name: math",
        "name: 'a b'",
        "experts.yaml:11: experts[1].name must be 1 to 64 letters, digits, '.', '_' and '-', and "
        "begin with a letter or a digit; got 'a b'. Write a-b",
    ),
    (
        "    weights: w",
        "    timeout_s: 5",
        "experts.yaml:9: experts[0].timeout_s must hold keys with values; got 5. Write e.g. "
        "timeout_s: {idle: 60}",
    ),
    (
        "    weights: w",
        "    cache: yes",
        "experts.yaml:9: experts[0].cache must be true or false; got 'yes'",
    ),
    (
        "    weights: w",
        "    api_key_env: 'sk-1 2'",
        "experts.yaml:9: experts[0].api_key_env must be the name of an environment variable, e.g. "
        "VLLM_API_KEY; got something else, which is not shown as it may be the key. Put the key "
        "itself into that variable",
    ),
    (
        "    weights: w",
        "    api_key_env: COE_ADMIN_KEY",
        "experts.yaml:9: experts[0].api_key_env must not be a variable of the gateway itself",
    ),
    (
        "    weights: w",
        "    capabilities: [tool]",
        "experts.yaml:9: experts[0].capabilities[0] must be 'tools', 'json_schema', 'vision', "
        "'audio', 'embeddings', 'messages' or 'responses'; got 'tool'",
    ),
    (
        "version: 1",
        "min_confidence: 2\nversion: 1",
        "experts.yaml:1: min_confidence must be auto or a number from 0 to 1; got 2",
    ),
    (
        "    weights: w",
        "    runtime: {parallel: 2}",
        "experts.yaml:9: experts[0].runtime is for backend local only. Remove it",
    ),
    (
        "backend: openai",
        "backend: local",
        "experts.yaml:6: experts[0].base_url must be left out with backend local: the gateway runs "
        "that process itself. Remove it, or use backend: openai",
    ),
    (
        "version: 1",
        "llm_router: {expert: judge}\nversion: 1",
        "experts.yaml:1: llm_router.expert must name an expert; got 'judge'. Allowed: general, ",
    ),
    ("    model: some-model\n", "", "experts.yaml:4: experts[0].model is missing. Add it, e.g. "),
    ("version: 1\n", "", "experts.yaml:1: version is missing. Add it, e.g. version: 1"),
    (
        "name: algebra",
        "name: algebra\n    weights: w\n    total_params_b: 8",
        "experts.yaml:19: experts[2].total_params_b must equal experts[0].total_params_b (7.0): "
        "both name the weights 'w'; got 8.0",
    ),
    ("[math, general]", "[math, general", "experts.yaml:22: not valid YAML: expected ',' or ']'"),
    ("version: 1", "version: 1\nversion: 1", "experts.yaml:2: not valid YAML: found duplicate key"),
    ("*math", "*maths", "experts.yaml:16: not valid YAML: found undefined alias 'maths'"),
    (
        "    model: some-model",
        "\tmodel: some-model",
        "experts.yaml:7: not valid YAML: found character '\\t' that cannot start any token. Indent "
        "with spaces instead of the tab",
    ),
    ("version: 1", "version: 1\0", "experts.yaml: not valid YAML: "),
    ("version: 1", "1: 2\nversion: 1", "experts.yaml:1: [1] must be strings; got 1"),
]


@pytest.mark.parametrize(("old", "new", "message"), FAULTS)
def test_a_fault_is_reported_once_with_its_line_and_mend(old: str, new: str, message: str) -> None:
    assert old in VALID
    faults = faults_of(VALID.replace(old, new, 1))
    assert len([fault for fault in faults if fault.startswith(message)]) == 1, faults
    assert len(faults) == 1 or "\0" in new, faults


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model: math-model", "modle: math-model", "experts[1].modle is not a key"),
        ("    model: math-model\n", "", "experts[1].model is missing"),
        ("    base_url: http://127.0.0.1:8002/v1\n", "", "experts[1].base_url is missing"),
        ("model: math-model", "model: ''", "experts[1].model must have"),
        ("{connect: 2}", "{connect: x}", "experts[1].timeout_s.connect must be a number; got 'x'"),
    ],
)
def test_a_fault_of_an_anchor_is_reported_at_the_anchor_alone(
    old: str, new: str, message: str
) -> None:
    faults = faults_of(VALID.replace(old, new, 1))
    assert any(message in fault for fault in faults)
    assert not any("experts[2]" in fault or "experts[3]" in fault for fault in faults)


def test_a_fault_that_is_only_merged_in_is_still_refused() -> None:
    text = VALID.replace("  - <<: *math\n    name: algebra", "  - <<: {name: algebra, backendd: x}")
    assert "experts[2]" in faults_of(text)[0]


def test_local_experts_over_the_same_weights_must_agree() -> None:
    local = {"backend": "local", "weights": "w", "model": "a.gguf"}
    experts = [
        {"name": "a", **local, "context_window": 2048},
        {"name": "b", **local, "context_window": 4096, "runtime": {"threads": 2}},
    ]
    tree = {"version": 1, "general": "a", "experts": experts, "mapping": {}}
    context, runtime = faults_of(json.dumps(tree))
    assert "experts[1].context_window must equal experts[0].context_window (2048)" in context
    assert "both name the weights 'w'; got 4096" in context
    assert "experts[1].runtime must equal experts[0].runtime" in runtime


@pytest.mark.parametrize("text", ["", "a", "- 1", "[]", "1", "2024-01-01", "!!set {a}"])
def test_what_is_not_a_mapping_is_refused(text: str) -> None:
    (fault,) = faults_of(text)
    assert "must be a mapping with the keys version, general, experts and mapping" in fault


@pytest.mark.parametrize(
    "text",
    ["!!bool x", "a: +_", "<<: &x {<<: *x}", "&a {b: *a}", "[" * 1000, "a: !!int x", "%YAML 9.9"],
)
def test_what_the_yaml_library_chokes_on_is_refused(text: str) -> None:
    assert faults_of(text)[0].startswith("experts.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml not found\. Name the file with --config"):
        load_experts_file(tmp_path / "nowhere.yaml")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "experts.yaml"
    path.write_bytes(b"version: \xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_experts_file(path)


@pytest.mark.filterwarnings("ignore::ruamel.yaml.error.ReusedAnchorWarning")
@given(st.text())
def test_arbitrary_text_raises_nothing_but_config_errors(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_experts_file(text)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from([*ExpertsFile.model_fields, *ExpertConfig.model_fields, "x"]) | SCALARS
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=12,
)


@settings(max_examples=50)
@given(st.dictionaries(KEYS, TREES, max_size=6))
def test_arbitrary_yaml_raises_nothing_but_config_errors(tree: dict[Any, Any]) -> None:
    text = json.dumps(tree)  # JSON is YAML; its keys are strings, NaN and infinities are scalars
    with pytest.raises(ConfigError):
        parse_experts_file(text)


@settings(max_examples=50)
@given(
    st.sampled_from(["version", "router", "min_confidence", "general", "experts", "mapping"]),
    TREES,
)
def test_one_arbitrary_value_in_a_valid_file_is_taken_or_refused(key: str, value: Any) -> None:
    tree = YAML(typ="safe").load(VALID)
    text = json.dumps({**tree, key: value})
    try:
        parse_experts_file(text)
    except ConfigError as error:
        assert str(error).startswith("experts.yaml:1: ") or "not valid YAML" in str(error)


# the file that ships


SHIPPED = REPO / "experts.yaml"


def test_the_shipped_file_loads_and_shared_weights_count_once() -> None:
    registry = ExpertRegistry.load(SHIPPED)
    assert len(registry) == 10
    assert list(registry.local_weights) == ["smollm2-135m"]
    assert registry.resident_params_b == pytest.approx(0.1345)
    assert registry.unknown_weights == ()


@pytest.mark.parametrize("model", [ExpertsFile, ExpertConfig, Timeouts, Runtime])
def test_every_key_is_commented_in_the_shipped_file(model: type[BaseModel]) -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    example = "\n".join(line for line in lines if line.lstrip().startswith("#"))
    for key in model.model_fields:
        at = [n for n, line in enumerate(lines) if re.search(rf"[ {{-]{key}:|^{key}:", line)]
        in_example = re.search(rf"{key}: .*# ", example)
        above = [n for n in at if n and lines[n - 1].lstrip().startswith("#")]
        assert above or in_example or key == "experts", f"{key} has no comment"


def test_every_key_of_the_schema_has_a_description() -> None:
    for model in (ExpertsFile, ExpertConfig, Timeouts, Runtime):
        for key, field in model.model_fields.items():
            assert field.description or key == "experts", key


def test_the_shipped_json_schema_is_the_current_one() -> None:
    shipped = json.loads((REPO / "gateway/experts.schema.json").read_text(encoding="utf-8"))
    assert shipped == json_schema()


def test_the_json_schema_takes_the_shipped_file_and_refuses_a_broken_one() -> None:
    schema = json_schema()
    tree = YAML(typ="safe").load(SHIPPED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tree, schema, cls=jsonschema.Draft202012Validator)
    for broken in (
        {**tree, "rooter": "x"},
        {**tree, "experts": []},
        {**tree, "experts": [{**tree["experts"][0], "total_params_b": -1}]},
        {**tree, "experts": [{**tree["experts"][0], "backend": "opnai"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema, cls=jsonschema.Draft202012Validator)


# the path of the router


def test_a_router_folder_is_found_beside_the_file_before_the_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "experts.yaml"
    path.write_text(VALID, encoding="utf-8")
    assert ExpertRegistry.load(path).router_path == REPO / "routers/default"
    (tmp_path / "routers/default").mkdir(parents=True)
    assert ExpertRegistry.load(path).router_path == tmp_path / "routers/default"
