from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.base import Decision, FloatArray, decide
from routers.mapping import MappingError, ScoredMapping, WrittenMapping

CATEGORIES = ("general", "math")
SCORES = np.array([[0.6, 0.7, 0.3], [0.5, 0.6, 0.9]])
MAPPING = ScoredMapping(
    CATEGORIES,
    ("small", "big", "mathstral"),
    SCORES,
    np.array([1.0, 70.0, 7.0]),
    {"small": 0.05, "default": 0.001, "best": 0.0},
)
EVERYONE = ("small", "big", "mathstral")


def decision(*probabilities: float) -> Decision:
    return decide(np.array(probabilities), CATEGORIES, min_margin=0)


def test_a_written_mapping_is_taken_at_its_word() -> None:
    mapping = WrittenMapping({"math": ["mathstral"]}, general="big")
    assert mapping.rank(decision(0.1, 0.9), EVERYONE) == ("mathstral", "big")
    assert mapping.rank(decision(0.9, 0.1), EVERYONE) == ("big",)
    assert mapping.rank(decision(0.1, 0.9), ("small",)) == ("small",)
    assert mapping.presets == ("default",)
    with pytest.raises(MappingError, match=r"mapping\.math must be a category"):
        mapping.check(["law"])


def test_a_written_mapping_may_name_experts_for_unsure_prompts_of_any_router() -> None:
    mapping = WrittenMapping({"general": ["small"]}, general="big")
    mapping.check(["law", "math"])
    unsure = decide(np.array([0.5, 0.5]), ("law", "math"), min_margin=0.9)
    assert mapping.rank(unsure, EVERYONE) == ("small", "big")


def test_a_category_typed_wrongly_is_told_with_the_one_meant() -> None:
    with pytest.raises(MappingError, match=r"got 'mth'\. Did you mean 'math'\? Allowed: law, math"):
        WrittenMapping({"mth": ["big"]}, general="big").check(["law", "math"])


def test_a_certain_router_gives_the_plain_table() -> None:
    assert MAPPING.rank(decision(0, 1), EVERYONE, "best") == ("mathstral", "big", "small")
    assert MAPPING.rank(decision(1, 0), EVERYONE, "best") == ("big", "small", "mathstral")
    assert MAPPING.plain("best") == {
        "general": ("big", "small", "mathstral"),
        "math": ("mathstral", "big", "small"),
    }


def test_an_uncertain_router_drifts_to_the_generalist() -> None:
    assert MAPPING.rank(decision(0.7, 0.3), EVERYONE, "best")[0] == "big"


@pytest.mark.parametrize("expected", [None, np.array([0.1, 0.2, 0.9])])
def test_what_no_category_stands_for_goes_to_the_general_expert(
    expected: FloatArray | None,
) -> None:
    def ranked(*categories: str, min_margin: float, able: Sequence[str] = EVERYONE) -> list[str]:
        mapping = replace(MAPPING, categories=categories, general="small")
        row = decide(np.array([0.4, 0.6]), categories, min_margin, expected)
        return list(mapping.rank(row, able, "best"))

    assert ranked("law", "math", min_margin=0.9) == ["small", "mathstral", "big"]
    assert ranked("law", "math", min_margin=0.9, able=EVERYONE[1:]) == ["mathstral", "big"]
    assert ranked("law", "math", min_margin=0.1) == ["mathstral", "big", "small"]
    assert ranked("general", "math", min_margin=0.9) == ["mathstral", "big", "small"]


def test_a_price_buys_smaller_experts() -> None:
    assert MAPPING.rank(decision(1, 0), EVERYONE, "small")[0] == "small"
    np.testing.assert_allclose(
        MAPPING.utility(decision(0.5, 0.5), "small"), [0.55 - 0.05, 0.65 - 3.5, 0.6 - 0.35]
    )


def test_only_candidates_answer_and_any_of_them_beats_none() -> None:
    assert MAPPING.rank(decision(0, 1), ("small", "big")) == ("big", "small")
    assert MAPPING.rank(decision(0, 1), ("stranger",)) == ("stranger",)


def test_the_categories_must_be_those_of_the_router() -> None:
    MAPPING.check(CATEGORIES)
    with pytest.raises(MappingError, match="it has general, math"):
        MAPPING.check(("math", "general"))


def test_a_saved_mapping_ranks_alike_and_its_digest_sees_every_change(tmp_path: Path) -> None:
    path = tmp_path / "mapping.json"
    MAPPING.save(path)
    loaded = ScoredMapping.load(path, MAPPING.prices)
    assert loaded.digest == MAPPING.digest
    assert list(tmp_path.iterdir()) == [path]
    other = json.loads(path.read_text())
    other["expected_score"][0][0] = 0.61
    path.write_text(json.dumps(other))
    assert ScoredMapping.load(path, MAPPING.prices).digest != MAPPING.digest
    assert ScoredMapping.load(path, {"default": 1.0}).digest != loaded.digest


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        '{"format": 1, "categories": ["a"], "experts": ["e"], "expected_score": [[1]], '
        '"price_of": "params", "cost": [1], "finer": null}',
        '{"format": 2, "categories": ["a"], "experts": ["e"], "expected_score": [[1, 2]], '
        '"price_of": "params", "cost": [1], "finer": null}',
        '{"format": 2, "categories": ["a"], "experts": ["e"], "expected_score": [[1]], '
        '"price_of": "params", "cost": [], "finer": null}',
        '{"format": 2, "categories": ["a", "b"], "experts": ["e"], "expected_score": [[1], []], '
        '"price_of": "params", "cost": [1], "finer": null}',
        '{"format": 2, "categories": ["a"], "experts": ["e"], "expected_score": [[1]], '
        '"price_of": "params", "cost": [1], "finer": "0123456789ab"}',
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mapping.json"
    path.write_text(content)
    with pytest.raises(MappingError, match=r"mapping\.json must be a mapping that coe map wrote"):
        ScoredMapping.load(path, {"default": 0.0})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"none\.json"):
        ScoredMapping.load(tmp_path / "none.json", {"default": 0.0})


def test_what_is_expected_of_a_prompt_stands_above_its_category() -> None:
    sure = decide(np.array([0.0, 1.0]), CATEGORIES, 0, expected=np.array([0.9, 0.2, 0.1]))
    assert MAPPING.rank(sure, EVERYONE, "best")[0] == "small"
    assert MAPPING.expected(sure).tolist() == [0.9, 0.2, 0.1]


@given(st.floats(0, 1), st.sampled_from(MAPPING.presets))
def test_a_ranking_holds_every_expert_in_order_of_utility(p: float, preset: str) -> None:
    probabilities = np.array([p, 1 - p])
    ranked = MAPPING.rank(decide(probabilities, CATEGORIES, 0), EVERYONE, preset)
    assert sorted(ranked) == sorted(EVERYONE)
    values = MAPPING.utility(decision(p, 1 - p), preset)
    utility = dict(zip(MAPPING.experts, values, strict=True))
    assert [utility[name] for name in ranked] == sorted(utility.values(), reverse=True)
