from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from routers.data import normalised, read_rows
from routers.default_data.rows import RawRow, default_rows, read_raw, unseen_rows
from routers.default_data.written import asked_rows, written_rows
from tests.servers import REPO


def raw(n: int, **fields: Any) -> list[RawRow]:
    usual = {"source": "s", "category": "law", "licence": "MIT", "licence_ok": True}
    return [RawRow(**{"prompt": f"prompt {i} of {fields}", **usual, **fields}) for i in range(n)]


def shaped(*groups: list[RawRow], tested: list[str] | None = None) -> tuple[Counter[str], int]:
    """Return the rows of each given source, and the leaks."""
    rows, n_leaks = default_rows([row for group in groups for row in group], tested or [], seed=0)
    sources = {row.source for group in groups for row in group}
    return Counter(row.source for row in rows if row.source in sources), n_leaks


def test_raw_rows_are_read(tmp_path: Path) -> None:
    line = {"id": 1, "source": "s", "prompt": "p", "category": None, "licence": "MIT"}
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(line).encode()))
    assert read_raw(path) == [RawRow("s", "p", None, "MIT", licence_ok=False)]


def test_only_labelled_rows_that_may_be_shared_are_taken() -> None:
    counts, _ = shaped(
        raw(3, source="free"),
        raw(3, source="closed", licence_ok=False),
        raw(3, source="unlabelled", category=None),
    )
    assert counts == {"free": 3}


def test_rows_that_may_not_be_shared_are_there_to_calibrate_on() -> None:
    closed = raw(200, source="closed", licence_ok=False)
    unlabelled = raw(3, source="unlabelled", licence_ok=False, category=None)
    rows = unseen_rows([*raw(3, source="free"), *closed, *unlabelled], seed=0)
    assert Counter(row.source for row in rows) == {"closed": 150}


def test_rows_of_test_sets_are_removed_and_counted() -> None:
    rows = raw(5, source="free")
    counts, n_leaks = shaped(rows, tested=[rows[2].prompt.upper()])
    assert counts == {"free": 4}
    assert n_leaks == 1


def test_sources_are_capped() -> None:
    counts, _ = shaped(
        raw(1_600, source="other"),
        raw(2_600, source="clinc_train"),
        raw(1_600, source="foreign", category="multilingual"),
    )
    assert counts == {"other": 700, "clinc_train": 1_500, "foreign": 100}


def test_most_options_are_stripped() -> None:
    rows = raw(200, source="exam")
    with_options = [
        RawRow(row.source, f"{row.prompt}\nA. yes\nB. no", row.category, "MIT", licence_ok=True)
        for row in rows
    ]
    made, _ = default_rows(with_options, [], seed=0)
    exam = [row.prompt for row in made if row.source == "exam"]
    kept = [prompt for prompt in exam if prompt.endswith("\nA. yes\nB. no")]
    assert len(exam) == 200
    assert 50 < len(kept) < 110
    assert {prompt for prompt in exam if prompt not in kept} <= {row.prompt for row in rows}


def test_translation_requests_quote_other_rows() -> None:
    made, _ = default_rows(
        [
            *raw(3, source="boolq", prompt="is the sky blue today"),
            *raw(1, source="alma_valid_de-en", category="multilingual", prompt="Guten Tag"),
        ],
        [],
        seed=0,
    )
    requests = [row for row in made if row.source.endswith(" as request")]
    assert len(requests) == 900
    assert {row.category for row in requests} == {"multilingual"}
    assert all("is the sky blue today" in r.prompt or "Guten Tag" in r.prompt for r in requests)
    german = [row.prompt for row in requests if "Guten Tag" in row.prompt]
    assert all("English" in prompt for prompt in german)


def test_the_seed_decides_everything() -> None:
    rows = raw(1_200)
    assert default_rows(rows, [], seed=0) == default_rows(rows, [], seed=0)
    assert default_rows(rows, [], seed=0) != default_rows(rows, [], seed=1)


@pytest.fixture(scope="module")
def written() -> list[Any]:
    return written_rows(seed=0)


def test_written_prompts_are_many_and_differ(written: list[Any]) -> None:
    assert len(written) > 25_000
    assert len({row.prompt.casefold() for row in written}) == len(written)
    assert len({row.category for row in written}) == 9
    assert all(row.source == f"written_{row.category}" for row in written)


def test_every_slot_is_filled(written: list[Any]) -> None:
    names = "x|y|p|s|s2|a|b|c|d|n|m|w|v|g|f"
    unfilled = re.compile(rf"(?<!\{{)\{{({names})\}}(?!\}})", re.IGNORECASE)
    left = [row.prompt for row in written if unfilled.search(row.prompt)]
    assert left == []


def test_prompts_written_one_by_one_differ_and_are_of_every_category() -> None:
    rows = asked_rows()
    counts = Counter(row.category for row in rows)
    assert len(counts) == 9
    assert min(counts.values()) > 500
    assert len({normalised(row.prompt) for row in rows}) == len(rows)
    assert all(row.source == f"asked_{row.category}" for row in rows)
    assert any("\n" in row.prompt for row in rows)


def test_prompts_kept_to_evaluate_with_are_not_trained_on(written: list[Any]) -> None:
    kept = read_rows([REPO / "eval" / "asked.jsonl"])
    assert len(kept) > 1_000
    trained = {normalised(row.prompt) for row in (*asked_rows(), *written)}
    assert trained.isdisjoint(normalised(row.prompt) for row in kept)
