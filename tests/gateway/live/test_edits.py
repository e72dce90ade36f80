"""Edits of the text of an experts file: what they name changes, everything else stays."""

from __future__ import annotations

import difflib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import parse_experts_file
from gateway.errors import ConfigError
from gateway.live.edits import patch_expert, put_expert, remove_expert, set_mapping, set_top
from gateway.schema import ExpertsFile
from tests.servers import REPO

SHIPPED = (REPO / "experts.yaml").read_text(encoding="utf-8")
COMPACT = """\
version: 1
general: a   # the one for everything
experts:
# the first one
- name: a
  backend: openai
  base_url: http://a/v1   # where it is
  model: m
# the second one
- {name: b, backend: openai, base_url: http://b/v1, model: m}

-
  backend: openai
  name: c
  model: "m: c"
  base_url: http://c/v1
  system_prompt: |
    Be brief.

    Always.
mapping:
  math: [b]  # by test
  law:
    - c
    - a
"""
JSON = json.dumps(
    {
        "version": 1,
        "general": "a",
        "experts": [
            {"name": name, "backend": "openai", "base_url": "http://a/v1", "model": "m"}
            for name in "abc"
        ],
        "mapping": {"math": ["b"]},
    }
)
TEXTS = {"shipped": SHIPPED, "compact": COMPACT, "json": JSON}


def expert(text: str, name: str) -> dict[str, Any]:
    found = next(e for e in parse_experts_file(text).experts if e.name == name)
    return found.model_dump(mode="json", exclude_unset=True)


def others(text: str, name: str) -> list[object]:
    return [e for e in parse_experts_file(text).experts if e.name != name]


def changed(before: str, after: str) -> list[str]:
    """Return the lines that an edit took out and put in."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line[0] in "+-"]


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def test_one_key_is_one_line() -> None:
    after = patch_expert(SHIPPED, "math", {"description": "numbers"})
    assert changed(SHIPPED, after) == [
        "-     description: mathematics and quantitative reasoning",
        "+     description: numbers",
    ]
    after = patch_expert(COMPACT, "a", {"base_url": "http://new/v1", "max_queue": 3})
    assert changed(COMPACT, after) == [
        "-   base_url: http://a/v1   # where it is",
        "+   base_url: http://new/v1   # where it is",
        "+   max_queue: 3",
    ]
    assert changed(COMPACT, set_top(COMPACT, {"general": "b"})) == [
        "- general: a   # the one for everything",
        "+ general: b   # the one for everything",
    ]


def test_a_new_expert_stands_behind_the_last_one_and_before_the_comment_of_the_next_key() -> None:
    after = put_expert(SHIPPED, "new", {"backend": "openai", "base_url": "http://x", "model": "m"})
    assert changed(SHIPPED, after) == [
        "+   - name: new",
        "+     backend: openai",
        "+     base_url: http://x",
        "+     model: m",
        "+ ",
    ]
    assert [e.name for e in parse_experts_file(after).experts][-2:] == ["multilingual", "new"]


def test_a_removed_expert_takes_its_comment_with_it_and_no_other() -> None:
    unmapped = set_mapping(COMPACT, {})
    after = remove_expert(remove_expert(unmapped, "b"), "c")
    assert comments(after) == [" the one for everything", " the first one", " where it is"]
    assert [e.name for e in parse_experts_file(after).experts] == ["a"]
    unmapped = set_mapping(SHIPPED, {"math": ["math"]})
    after = remove_expert(unmapped, "medical")
    assert comments(after) == comments(unmapped)
    assert "physician" not in after


def test_categories_of_the_mapping_keep_their_lines() -> None:
    after = set_mapping(COMPACT, {"math": ["b"], "coding": ["a"]})
    gone = ["-   law:", "-     - c", "-     - a"]
    assert sorted(changed(COMPACT, after)) == sorted([*gone, "+   coding: [a]"])
    mapped = {"table": "t.json", "presets": {"default": 0.5}}
    assert parse_experts_file(set_mapping(COMPACT, mapped)).mapping.model_dump() == mapped  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a", "b", "c"])
@pytest.mark.parametrize("text", [COMPACT, JSON], ids=["compact", "json"])
def test_an_expert_is_replaced_as_a_whole_whatever_its_form(text: str, name: str) -> None:
    fields = {"backend": "openai", "base_url": "http://new/v1", "model": "n", "max_queue": 1}
    after = put_expert(text, name, fields)
    assert expert(after, name) == {"name": name, **fields}
    assert others(after, name) == others(text, name)


def test_what_others_take_over_from_an_expert_changes_with_it() -> None:
    after = patch_expert(SHIPPED, "general", {"max_retries": 1})
    assert {e.max_retries for e in parse_experts_file(after).experts} == {1}
    with pytest.raises(ConfigError, match="undefined alias 'smollm2'"):
        parse_experts_file(remove_expert(set_top(SHIPPED, {"general": "math"}), "general"))


def test_a_merged_expert_can_be_replaced_by_one_of_its_own() -> None:
    fields = {"backend": "openai", "base_url": "http://x/v1", "model": "m"}
    after = put_expert(SHIPPED, "math", fields)
    assert expert(after, "math") == {"name": "math", **fields}
    assert comments(after) == comments(SHIPPED)


def test_keys_are_taken_out() -> None:
    after = patch_expert(COMPACT, "c", {}, ["system_prompt", "nothing"])
    assert "system_prompt" not in expert(after, "c")
    assert others(after, "c") == others(COMPACT, "c")
    assert "capabilities" not in expert(patch_expert(JSON, "a", {}, ["capabilities"]), "a")
    with pytest.raises(ConfigError, match="model is missing"):
        patch_expert(COMPACT, "a", {}, ["model"])


def test_an_expert_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no expert 'x'\. Allowed: a, b, c"):
        patch_expert(COMPACT, "x", {})
    with pytest.raises(ConfigError, match=r"no expert 'x'\. Allowed: a, b, c"):
        remove_expert(COMPACT, "x")


def test_what_is_no_experts_file_is_not_edited() -> None:
    with pytest.raises(ConfigError, match="general is missing"):
        put_expert("version: 1", "x", {})


# ruamel.yaml takes NEL for the end of a line: an edit that holds it is refused
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85"), max_size=40)
FIELDS = st.fixed_dictionaries(
    {"backend": st.just("openai"), "base_url": st.just("http://x/v1"), "model": TEXT.filter(bool)},
    optional={
        "description": TEXT,
        "system_prompt": TEXT,
        "active_params_b": st.none() | st.floats(1e-6, 1000),
        "capabilities": st.lists(st.sampled_from(["tools", "vision"]), unique=True),
        "timeout_s": st.fixed_dictionaries({"idle": st.integers(1, 99)}),
        "open_after_failures": st.none() | st.integers(1, 9),
    },
)


@settings(max_examples=8)
@given(text=st.sampled_from(sorted(TEXTS)), fields=FIELDS, name=st.sampled_from(["new", "a"]))
def test_whatever_is_written_is_read_again(text: str, fields: dict[str, Any], name: str) -> None:
    before = TEXTS[text]
    after = put_expert(before, name, fields)
    assert expert(after, name) == {"name": name, **fields}
    assert others(after, name) == others(before, name)
    if text != "json":
        kept = comments(before)
        assert [line for line in comments(after) if line in kept] == kept
    was, now = (parse_experts_file(each) for each in (before, after))
    for key in ExpertsFile.model_fields.keys() - {"experts"}:
        assert getattr(now, key) == getattr(was, key)


@settings(max_examples=8)
@given(fields=FIELDS, removed=st.lists(st.sampled_from(["system_prompt", "max_queue"])))
def test_whatever_is_patched_is_read_again(fields: dict[str, Any], removed: list[str]) -> None:
    for name in ("a", "b", "c"):
        after = patch_expert(COMPACT, name, fields, removed)
        wanted = {k: v for k, v in expert(COMPACT, name).items() if k not in removed}
        assert expert(after, name) == {**wanted, **fields}
        assert others(after, name) == others(COMPACT, name)
