from __future__ import annotations

import gzip
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.data import (
    DataError,
    Row,
    capped,
    digest,
    read_labelled,
    read_prompts,
    read_rows,
    split,
    without_duplicates,
)
from tests.prompts import toy_rows, write_lines


def test_rows_are_read_in_order_from_all_files(tmp_path: Path) -> None:
    plain = write_lines(tmp_path / "a.jsonl", [{"prompt": "p", "category": "c", "more": [1]}])
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(
        gzip.compress(b'\n{"prompt": "q", "category": "d", "source": "s", "licence": "MIT"}\n\n')
    )
    assert read_rows([plain, packed]) == [Row("p", "c"), Row("q", "d", "s", "MIT")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"category": "c"}', "missing required field `prompt`"),
        ('{"prompt": "p"}', "missing required field `category`"),
        ('{"prompt": "p", "category": null}', "Expected `str`, got `null`"),
        ('{"prompt": 3, "category": "c"}', "Expected `str`, got `int`"),
        ('{"prompt": " ", "category": "c"}', "prompt must not be blank"),
        ('{"prompt": "p", "category": ""}', "category must not be blank"),
        ('{"prompt": "\xff", "category": "c"}', "utf-8"),
        pytest.param('{"x": ' + "[" * 9_999, "recursion", id="deep"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "d.jsonl"
    good = '{"prompt": "p", "category": "c"}\n'
    path.write_bytes((good + line + "\n" + good + line).encode("latin-1"))
    with pytest.raises(DataError) as error:
        read_rows([path])
    message = str(error.value)
    assert "got 2 others" in message
    assert f"{path}:2: " in message
    assert f"{path}:4: " in message
    assert reason in message


def test_of_many_bad_rows_the_first_are_shown(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{}] * 25)
    with pytest.raises(DataError) as error:
        read_rows([path])
    assert f"{path}:20:" in str(error.value)
    assert f"{path}:21:" not in str(error.value)
    assert "and 5 more" in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "x.jsonl.gz"
    broken.write_bytes(b"not gzip")
    cut = tmp_path / "y.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"prompt": "p", "category": "c"}\n' * 99)[:-9])
    for path in (tmp_path / "missing.jsonl", broken, cut, tmp_path):
        with pytest.raises(DataError, match=f"{path.name} must be a readable JSON lines file"):
            read_rows([path])


def test_a_damaged_gzip_file_is_named_with_the_last_line_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    packer = zlib.compressobj(wbits=31)
    rows = "".join(f'{{"prompt": "p{i}", "category": "c"}}\n' for i in range(40_000))
    packed = packer.compress(rows.encode())
    path.write_bytes(packed + packer.flush(zlib.Z_FULL_FLUSH) + b"\x07 no such block")
    with pytest.raises(DataError, match=r"x\.jsonl\.gz must be .* block type after line \d{4}"):
        read_rows([path])


def test_a_byte_order_mark_and_space_around_a_category_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "p", "category": " c "}\n')
    assert read_rows([path]) == [Row("p", "c")]


@pytest.mark.parametrize("line", ["prompt,category", "how are you\tgeneral"])
def test_a_table_is_told_once(tmp_path: Path, line: str) -> None:
    path = tmp_path / "d.csv"
    path.write_text(f"{line}\n" * 30)
    with pytest.raises(DataError, match=r"d\.csv must hold JSON lines, .* looks like CSV or TSV"):
        read_rows([path])


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [])
    with pytest.raises(DataError, match="got none"):
        read_rows([path])


def test_unlabelled_rows_can_be_left_out_and_counted(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "d.jsonl",
        [{"prompt": "p", "category": None}, {"prompt": "q", "category": "c"}],
    )
    assert read_labelled([path]) == ([Row("q", "c")], 1)
    write_lines(path, [{"prompt": "p", "category": None}])
    with pytest.raises(DataError, match="must hold labelled rows"):
        read_labelled([path])


def test_prompts_need_no_category(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [{"prompt": "p"}])
    assert read_prompts([path]) == ["p"]
    write_lines(path, [{"prompt": ""}])
    with pytest.raises(DataError, match="prompt must not be blank"):
        read_prompts([path])


def test_duplicates_go_and_contradictions_go_entirely() -> None:
    rows = [Row("A  b", "x"), Row("a b", "x"), Row("c", "x"), Row("C ", "y"), Row("d", "y")]
    assert without_duplicates(rows) == [Row("A  b", "x"), Row("d", "y")]


def test_caps_keep_order_and_depend_on_the_seed() -> None:
    rows = toy_rows()
    kept = capped(rows, 7, lambda row: row.category, seed=0)
    assert Counter(row.category for row in kept) == {"coding": 7, "cooking": 7, "general": 7}
    assert kept == [row for row in rows if row in kept]
    assert kept == capped(rows, 7, lambda row: row.category, seed=0)
    assert kept != capped(rows, 7, lambda row: row.category, seed=1)
    assert capped(rows, None, lambda row: row.category, seed=0) == rows


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(2, 40), min_size=1),
    st.floats(0.01, 0.5),
    st.integers(0, 3),
)
def test_the_split_is_stratified(counts: dict[str, int], fraction: float, seed: int) -> None:
    rows = [Row(f"{category}{i}", category) for category, n in counts.items() for i in range(n)]
    training, held_out = split(rows, fraction, seed)
    assert sorted(training + held_out, key=rows.index) == rows
    held = Counter(row.category for row in held_out)
    for category, n in counts.items():
        assert held[category] == min(max(1, round(fraction * n)), n - 1)


def test_a_category_with_one_row_cannot_be_split() -> None:
    with pytest.raises(DataError, match="got one for b"):
        split([Row("p", "a"), Row("q", "a"), Row("r", "b")], 0.1, 0)


def test_the_digest_depends_on_rows_and_order() -> None:
    one, other = Row("p", "a"), Row("q", "a")
    assert digest([one, other]) == digest(iter([one, other]))
    assert len({digest([one, other]), digest([other, one]), digest([one])}) == 3


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.jsonl"
        path.write_bytes(content)
        try:
            rows = read_rows([path])
        except DataError:
            return
    assert len(rows) == len([line for line in content.split(b"\n") if line.strip()])
