from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.data import DataError
from routers.scores import Pool, read_scores, read_sizes

GOOD = {"id": "1", "prompt": "hi", "category": "math", "scores": {"a": 1, "b": 0.5}, "more": 1}


def write(path: Path, *rows: object) -> Path:
    text = "\n".join(json.dumps(row) for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_files_are_stacked_and_missing_scores_are_nan(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", GOOD)
    two = write(tmp_path / "two.jsonl.gz", {**GOOD, "category": None, "scores": {"c": 0}})
    table = read_scores([one, two])
    assert table.experts == ("a", "b", "c")
    assert table.categories == ("math", None)
    np.testing.assert_array_equal(table.scores, [[1, 0.5, np.nan], [np.nan, np.nan, 0]])
    assert len(table.of_experts(["b", "a"]).complete()) == 1
    assert table.of_experts(["b", "a"]).scores[0].tolist() == [0.5, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "scores": {"a": 1.5}}, r"scores\.a must be from 0 to 1; got 1\.5"),
        ({**GOOD, "scores": {"a": -1}}, r"scores\.a must be from 0 to 1"),
        ({**GOOD, "scores": {}}, "scores must name an expert"),
        ({**GOOD, "scores": {"a": 1, "b": "good"}}, r'scores\.b must be from 0 to 1; got "good"'),
        ({**GOOD, "scores": {"b": True}}, r"scores\.b must be from 0 to 1; got true"),
        ({**GOOD, "scores": {"b": float("nan")}}, "Write null, not NaN, where there is no score"),
        ({**GOOD, "id": 3}, 'id must be a string; got 3. Write "3"'),
        (GOOD, "id '1' comes again: a has a score on this prompt already"),
        ({"prompt": "hi"}, "missing required field"),
        ("text", "Expected `object`"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path / "scores.jsonl", GOOD, row)
    with pytest.raises(DataError, match=rf"scores\.jsonl:2: .*{message}"):
        read_scores([path])


def test_null_is_no_score_and_lines_may_share_a_prompt(tmp_path: Path) -> None:
    one = {**GOOD, "scores": {"a": 1, "b": None, "c": None}}
    more = [{**GOOD, "scores": {"b": 0}}, {**GOOD, "prompt": "another"}]
    table = read_scores([write(tmp_path / "scores.jsonl", one, *more)])
    assert table.experts == ("a", "b")
    np.testing.assert_array_equal(table.scores, [[1, np.nan], [np.nan, 0], [1, 0.5]])


def test_an_expert_without_a_column_is_named(tmp_path: Path) -> None:
    table = read_scores([write(tmp_path / "s.jsonl", GOOD)])
    with pytest.raises(DataError, match="must score the expert 'z'; it scores a, b"):
        table.of_experts(["a", "z"])


@given(line=st.binary(max_size=60))
def test_any_line_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, line: bytes) -> None:
    path = tmp_path_factory.mktemp("scores") / "s.jsonl"
    path.write_bytes(line)
    with pytest.raises(DataError):
        read_scores([path])


def sizes(tmp_path: Path, text: str) -> Pool:
    path = tmp_path / "sizes.csv"
    path.write_text(text)
    return read_sizes(path)


def test_sizes_leave_out_models_without_one(tmp_path: Path) -> None:
    pool = sizes(tmp_path, "model,total_params_b,active_params_b\na,47,13\nb,,7\n")
    assert pool.names == ("a",)
    assert (pool.total_params_b[0], pool.active_params_b[0]) == (47, 13)


def test_shared_weights_are_resident_once(tmp_path: Path) -> None:
    text = "model,total_params_b,active_params_b,weights\na,7,7,w\nb,7,7,w\nc,2,2,\n"
    pool = sizes(tmp_path, text)
    assert pool.resident_params_b(np.array([True, True, True])) == 9
    assert pool.only(["c", "b"]).weights == ("c", "w")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,active_params_b\na,1\n", "'total_params_b' is missing"),
        ("model,total_params_b,active_params_b\na,1,x\n", r"csv:2: active_params_b .* got 'x'"),
        ("model,total_params_b,active_params_b\na,-1,1\n", r"csv:2: total_params_b .* got '-1'"),
    ],
)
def test_bad_sizes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sizes(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv must be a readable CSV"):
        read_sizes(tmp_path / "none.csv")
