from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routers.arrays import write_arrays
from routers.artifact import DEFAULT_FOLDER, ArtifactError, load_encoder, load_router, save_router
from routers.bag import BagRouter
from tests.prompts import toy_rows


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small router."""
    rows = toy_rows()
    router = BagRouter("toy").fit([row.prompt for row in rows], [row.category for row in rows])
    folder = tmp_path_factory.mktemp("artifact") / "toy"
    save_router(router, folder, {"notes": ["A note."]})
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Return a copy of it that may be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "toy"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "router.json"
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def test_the_card_says_what_the_router_is(folder: Path) -> None:
    card = json.loads((folder / "router.json").read_text())
    router = load_router(folder)
    assert card["format"] == 2
    assert card["type"] == "bag"
    assert card["name"] == "toy"
    assert card["version"] == router.version
    assert card["categories"] == ["coding", "cooking", "general"]
    assert card["min_margin"] == 0
    assert set(card["files"]) == {"head.npz"}
    readme = (folder / "README.md").read_text()
    assert readme.startswith(f"# toy@{router.version}\n")
    assert "A note." in readme


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(format=1), "format"),
        (lambda card: card.update(type="oracle"), "type must be one of linear, .*got 'oracle'"),
        (lambda card: card.update(name="No Spaces"), "name"),
        (lambda card: card.update(min_margin=1.5), "min_margin"),
        (lambda card: card.pop("categories"), "categories"),
        (lambda card: card.update(version="0"), "version must be"),
        (lambda card: card.update(categories=["a", "b", "c"]), "version must be"),
        (lambda card: card.update(categories=["a", "b"]), "must hold a bag router"),
        (lambda card: card["settings"].clear(), "must hold a bag router; got KeyError"),
        (lambda card: card["settings"].update(temperature=0), "must hold a bag router"),
        (lambda card: card.update(type="linear"), "must hold a linear router"),
        (lambda card: card["files"].update({"more.bin": "0"}), "more.bin: must be a file"),
        (lambda card: card["files"].update({"/dev/null": "0"}), "must name files of the folder"),
        (lambda card: card["files"].update({"a/../../b": "0"}), "must name files of the folder"),
    ],
)
def test_a_changed_card_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(ArtifactError, match=message) as error:
        load_router(folder)
    assert str(folder) in str(error.value)
    assert "coe train" in str(error.value)


def test_the_encoder_of_an_artifact_can_be_had_alone(folder: Path) -> None:
    encoder = load_encoder(DEFAULT_FOLDER)
    assert encoder.max_tokens == 88
    with pytest.raises(ArtifactError, match="an encoder of its own"):
        load_encoder(folder)


def test_an_encoder_that_is_damaged_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEFAULT_FOLDER, tmp_path / "default"))
    strong = folder / "encoder.onnx"
    content = strong.read_bytes()
    strong.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=r"encoder\.onnx: must have SHA-256"):
        load_encoder(folder)
    strong.unlink()
    with pytest.raises(ArtifactError, match=r"encoder\.onnx: must be a file that can be read"):
        load_encoder(folder)
    strong.write_bytes(content)
    edit(folder, lambda card: card.update(settings={"router": {}}))
    with pytest.raises(ArtifactError, match=r"must hold a router's encoder; got KeyError"):
        load_encoder(folder)


def test_what_is_no_regular_file_is_not_read(folder: Path) -> None:
    (folder / "head.npz").unlink()
    (folder / "head.npz").symlink_to("/dev/null")
    with pytest.raises(ArtifactError, match=r"head\.npz: must be a regular file"):
        load_router(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere/router\.json: must be a file"):
        load_router(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"{", b'{"type": "\xff"}', b'{"x": ' + b"[" * 9_999])
def test_a_card_that_is_not_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / "router.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"router\.json: must be a router card"):
        load_router(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "head.npz").unlink()
    with pytest.raises(ArtifactError, match=r"head\.npz: must be a file that can be read"):
        load_router(folder)


def test_a_flipped_bit_is_found(folder: Path) -> None:
    content = bytearray((folder / "head.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "head.npz").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"head\.npz: must have SHA-256"):
        load_router(folder)


def test_pickled_objects_are_not_loaded(folder: Path) -> None:
    np.savez(folder / "head.npz", coef=np.array([print], dtype=object))
    sha256 = hashlib.sha256((folder / "head.npz").read_bytes()).hexdigest()
    edit(folder, lambda card: card["files"].update({"head.npz": sha256}))
    with pytest.raises(ArtifactError, match="allow_pickle=False"):
        load_router(folder)


def test_an_artifact_is_replaced(folder: Path) -> None:
    before = load_router(folder)
    router = BagRouter("toy").fit(["a", "b"], ["x", "y"])
    save_router(router, folder, {})
    assert load_router(folder).version == router.version != before.version
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    save_router(BagRouter("toy").fit(["a", "b"], ["x", "y"]), tmp_path, {})
    assert load_router(tmp_path).categories_ == ("x", "y")


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    router = BagRouter("toy").fit(["a", "b"], ["x", "y"])
    with pytest.raises(ArtifactError, match="it holds something else"):
        save_router(router, tmp_path, {})
    with pytest.raises(ArtifactError, match="it holds something else"):
        save_router(router, tmp_path / "thesis.tex", {})
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_what_lies_in_an_artifact_and_is_not_of_it_is_left_alone(folder: Path) -> None:
    (folder / "recent.jsonl").write_text("rows")
    router = BagRouter("toy").fit(["a", "b"], ["x", "y"])
    with pytest.raises(ArtifactError, match=r"it holds also recent\.jsonl\. Move that away"):
        save_router(router, folder, {})
    assert (folder / "recent.jsonl").read_text() == "rows"
    (folder / "recent.jsonl").unlink()
    edit(folder, lambda card: card.update(format=1))
    save_router(router, folder, {})
    assert load_router(folder).version == router.version


def test_a_failed_save_leaves_nothing_and_keeps_the_old(folder: Path) -> None:
    router = BagRouter("toy").fit(["a", "b"], ["x", "y"])
    before = (folder / "router.json").read_bytes()
    with pytest.raises(TypeError):
        save_router(router, folder, {"not JSON": object()})
    assert (folder / "router.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_the_folder_may_be_a_link_or_where_one_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = BagRouter("toy").fit(["a", "b"], ["x", "y"])
    link = tmp_path / "link"
    link.symlink_to(folder)
    save_router(router, link, {})
    assert link.is_symlink()
    assert load_router(folder).version == router.version
    again = BagRouter("toy").fit(["a", "b"], ["y", "x"])
    monkeypatch.chdir(folder)
    save_router(again, Path(), {})
    assert load_router(folder).version == again.version


def test_the_same_arrays_give_the_same_bytes(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.ones(2, dtype=np.float32)}
    write_arrays(tmp_path / "one.npz", arrays)
    write_arrays(tmp_path / "two.npz", arrays)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert np.load(tmp_path / "one.npz")["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
