from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from routers.artifact import DEFAULT_FOLDER, load_router, read_card
from routers.build_default import main
from routers.data import Row
from tests.prompts import toy_rows

GERMAN = ("Wie wird das Wetter morgen in {}?", "Wo kann ich in {} gut zu Abend essen?")
CITIES = ("Hamburg", "Leipzig", "Stuttgart", "Bremen", "Kiel", "Dresden", "Bonn", "Ulm")
WRITTEN = (
    "general",
    "coding",
    "math",
    "science",
    "medical",
    "law",
    "finance",
    "humanities",
    "writing",
)
LEFT_OUT = [
    f"--leave-out={kind}_{category}" for kind in ("asked", "written") for category in WRITTEN
]


def line(row: Row, **fields: Any) -> dict[str, Any]:
    plain = {"prompt": row.prompt, "category": row.category, "source": row.source}
    return {**plain, "licence": "MIT", "licence_ok": True, **fields}


def pack(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in lines).encode()))


def test_an_encoder_can_be_kept(tmp_path: Path) -> None:
    german = [Row(text.format(c), "multilingual", "xquad_de") for text in GERMAN for c in CITIES]
    pack(tmp_path / "train.jsonl.gz", map(line, [*toy_rows(), *german]))
    kept = [f"--encoder={DEFAULT_FOLDER}", "--rows-per-category=20"]
    out = tmp_path / "kept"
    result = CliRunner().invoke(main, [str(tmp_path), "--out", str(out), *kept, *LEFT_OUT])
    assert result.exit_code == 0, result.output

    card = read_card(out)
    cascade = card.settings["router"]
    assert (cascade["type"], cascade["settings"]["strong"]["type"]) == ("cascade", "finetuned")
    tokens = "cheap/static/tokens.npz"
    assert card.files[tokens] == read_card(DEFAULT_FOLDER).files[tokens]
    assert card.files["encoder.onnx"] == read_card(DEFAULT_FOLDER).files["encoder.onnx"]
    assert card.training["data"]["rows_trained"] < 20 * 4
    readme = (out / "README.md").read_text()
    left_out = " ".join(LEFT_OUT).replace("=", " ")
    assert (
        f"Rebuilt by: python -m routers.build_default DATA_FOLDER --out {out} "
        f"--encoder {DEFAULT_FOLDER} --rows-per-category 20 {left_out}\n"
    ) in readme
    assert "Its encoder is always asked" in readme


def test_the_default_router_is_rebuilt_from_raw_data(tmp_path: Path) -> None:
    rows = toy_rows()
    german = [Row(text.format(c), "multilingual", "xquad_de") for text in GERMAN for c in CITIES]
    closed = [Row(f"closed {row.prompt}", row.category, "closed") for row in rows[::10]]
    chatter = [Row(f"hm {i}", "general", "clinc_oos_train") for i in range(20)]
    pack(
        tmp_path / "train.jsonl.gz",
        [
            *map(line, [*rows, *german, *chatter]),
            *(line(row, licence="none", licence_ok=False) for row in closed),
        ],
    )
    pack(tmp_path / "test_x.jsonl.gz", [line(rows[0]), line(rows[7], category=None)])
    out = tmp_path / "rebuilt"
    result = CliRunner().invoke(main, [str(tmp_path), "--out", str(out), "--type=bag", *LEFT_OUT])
    assert result.exit_code == 0, result.output

    card = read_card(out)
    assert card.name == "rebuilt"
    assert card.type == "language_gate"
    facts = card.training["data"]
    assert facts["rows_read"] == len(rows) - 2 + len(german)
    assert facts["rows_of_unseen_sources"] == len(closed)
    sources = {source["source"] for source in facts["sources"]}
    assert sources == {"toy_coding", "toy_cooking", "toy_general", "xquad_de"}
    readme = (out / "README.md").read_text()
    assert f"DATA_FOLDER --out {out} --type bag --leave-out asked_general " in readme
    assert "2 rows that also stand in a test set were removed" in readme
    assert "| xquad_de | MIT | multilingual | 16 |" in readme
    (row,) = load_router(out).predict_proba(["Wie spät ist es jetzt in München?"])
    assert card.categories[row.argmax()] == "multilingual"
