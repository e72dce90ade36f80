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
from gateway.experts import ExpertRegistry, check_keys
from gateway.schema import ExpertConfig, ExpertsFile, Runtime, Timeouts, json_schema
from tests.servers import NOBODY_URL, REPO, write_experts

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
    with pytest.raises(ConfigError, match="must be a text file that can be read"):
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


def test_a_budget_ends_also_where_no_expert_has_a_size(tmp_path: Path) -> None:
    expert = {"name": "a", "base_url": NOBODY_URL}
    unsized = write_experts(tmp_path / "e.yaml", [expert], {})
    assert ExpertRegistry.load(unsized).largest_active_params_b == 1
    sized = write_experts(tmp_path / "e.yaml", [{**expert, "active_params_b": 0.1}], {})
    assert ExpertRegistry.load(sized).largest_active_params_b == 0.1


@pytest.mark.parametrize(("variable", "shown"), [("MY_KEY", True), ("gsk_9fQ2LmZ7aXc0", False)])
def test_a_key_in_the_place_of_its_variable_is_not_repeated(
    variable: str, shown: bool, tmp_path: Path
) -> None:
    expert = {"name": "a", "base_url": NOBODY_URL, "api_key_env": variable}
    registry = ExpertRegistry.load(write_experts(tmp_path / "e.yaml", [expert], {}))
    with pytest.raises(ConfigError, match="must hold its key; it is not set") as refused:
        check_keys(registry, {})
    assert (variable in str(refused.value)) is shown


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
