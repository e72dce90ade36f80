"""Router artifacts: a folder that holds everything a router needs to answer, without pickle.

``router.json`` names the type, the categories, the settings and the SHA-256 of every other file;
which files there are is the router type's own affair.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from routers.card import FORMAT, Card, render
from routers.registry import StoredRouter, router_class, router_types

if TYPE_CHECKING:
    from routers.encoder import SentenceEncoder

CARD_FILE = "router.json"
README_FILE = "README.md"
DEFAULT_FOLDER = Path(__file__).parent / "default"
"""The artifact that ships."""


_BAD_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class ArtifactError(ValueError):
    """An artifact folder is missing, broken or not ours."""


class _Files(msgspec.Struct):
    files: dict[str, str]


def load_router(folder: Path) -> StoredRouter:
    """Read a router from its artifact folder.

    Raises
    ------
    ArtifactError
        The folder is missing, broken, or not an artifact.
    """
    card = checked_card(folder)
    router = _load(folder, card)
    if router.version != card.version:
        raise _error(
            folder / CARD_FILE,
            f"version must be {router.version!r}, the hash of what it describes",
            repr(card.version),
        )
    return router


def load_encoder(folder: Path) -> SentenceEncoder:
    """Open the encoder of an artifact; it reads as much of a text as the artifact's router.

    Raises
    ------
    ArtifactError
        The folder is not an artifact or broken, or its router has no encoder of its own.
    """
    from routers.encoder import SentenceEncoder  # a parent that only checks loads no onnxruntime

    card = checked_card(folder)
    try:
        place = _encoder_place(folder, card.settings)
        encoder = None if place is None else SentenceEncoder(*place)
    except Exception as error:  # whatever a foreign file makes the readers raise
        raise _error(folder, "must hold a router's encoder", repr(error)) from error
    if encoder is None:
        raise _error(folder, "must hold a router with an encoder of its own", "another router")
    return encoder


def _encoder_place(folder: Path, settings: Mapping[str, Any]) -> tuple[Path, int] | None:
    """Return the folder of a router's encoder and how many tokens it reads; None without one."""
    if "max_tokens" in settings:
        return folder, settings["max_tokens"]
    for inner in ("router", "strong"):  # a language gate, a cascade
        if inner in settings:
            return _encoder_place(folder, settings[inner]["settings"])
    return None


def read_card(folder: Path) -> Card:
    """Read and check ``router.json`` alone.

    Raises
    ------
    ArtifactError
        It is missing or not what it must be.
    """
    path = folder / CARD_FILE
    try:
        card = msgspec.json.decode(path.read_bytes(), type=Card)
    except OSError as error:
        raise _error(
            path, "must be a file that can be read", error.strerror or str(error)
        ) from error
    except _BAD_JSON as error:
        raise _error(path, "must be a router card", str(error)) from error
    if card.type not in router_types():
        raise _error(path, f"type must be one of {', '.join(router_types())}", repr(card.type))
    return card


def checked_card(folder: Path) -> Card:
    """Read ``router.json`` and check that every file is the one it names, without loading any.

    Raises
    ------
    ArtifactError
        A file is missing or not what it must be.
    """
    card = read_card(folder)
    for name, sha256 in card.files.items():
        _check_file(folder, name, sha256)
    return card


def save_router(router: StoredRouter, folder: Path, training: Mapping[str, Any]) -> Card:
    """Write a router as an artifact folder, all of it or nothing.

    Parameters
    ----------
    router : StoredRouter
        A fitted router.
    folder : Path
        Replaced if it is an artifact and nothing else; must not exist or be empty otherwise.
    training : mapping
        JSON-ready facts for `Card.training`.

    Raises
    ------
    ArtifactError
        `folder` holds something that is not an artifact.
    """
    check_target(folder)
    folder = folder.resolve()  # a link stays one, and "." can be renamed by its name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        card = _write(router, new, training)
        _swap(new, folder, Path(scratch) / "old")
    return card


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Put a new folder in the place of another, which is kept if that fails."""
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:  # a SIGTERM in between, too
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise


def check_target(folder: Path) -> None:
    """Raise `ArtifactError` if `folder` cannot be written without losing something else."""
    parent = next(path for path in folder.resolve().parents if path.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=parent):
            pass
    except OSError as error:
        raise ArtifactError(
            f"{folder} must stand in a folder that can be written; got {parent}: {error.strerror}. "
            "Choose another folder"
        ) from error
    if not folder.exists():
        return
    is_empty = folder.is_dir() and not any(folder.iterdir())
    is_artifact = (folder / CARD_FILE).is_file()
    if not (is_empty or is_artifact):
        raise ArtifactError(
            f"{folder} must not exist, be empty, or be a router artifact; it holds something else. "
            f"Choose another folder"
        )
    if is_artifact and (strange := _strangers(folder)):
        raise ArtifactError(
            f"{folder} must hold a router artifact alone, since it is replaced; it holds also "
            f"{', '.join(strange)}. Move that away, or choose another folder"
        )


def _strangers(folder: Path) -> Sequence[str]:
    """Name what lies beside the files of an artifact of any format."""
    try:
        files = msgspec.json.decode((folder / CARD_FILE).read_bytes(), type=_Files).files
    except _BAD_JSON:
        return ()  # nobody knows which files were of it
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(found - {CARD_FILE, README_FILE, *files})


def _write(router: StoredRouter, folder: Path, training: Mapping[str, Any]) -> Card:
    settings = router.write(folder)
    card = Card(
        format=FORMAT,
        type=router.type,
        name=router.name,
        version=router.version,
        categories=router.categories_,
        min_margin=router.min_margin,
        active_params_b=router.active_params_b,
        settings=settings,
        files=_hash_files(folder),
        training=dict(training),
    )
    text = json.dumps(msgspec.to_builtins(card), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / README_FILE).write_text(render(card), encoding="utf-8")
    return card


def _load(folder: Path, card: Card) -> StoredRouter:
    try:
        router = router_class(card.type).load(folder, card.name, card.categories, card.settings)
        router.min_margin = card.min_margin
        router.predict_proba([""])
    except Exception as error:  # whatever a foreign file makes the readers raise
        raise _error(folder, f"must hold a {card.type} router", repr(error)) from error
    return router


def _hash_files(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}


def _check_file(folder: Path, name: str, sha256: str) -> None:
    path, inside = folder / name, PurePath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise _error(folder / CARD_FILE, "files must name files of the folder", repr(name))
    if path.exists() and not path.is_file():
        raise _error(path, "must be a regular file", "another kind of file")
    try:
        found = _sha256(path)
    except OSError as error:
        raise _error(
            path, "must be a file that can be read", error.strerror or str(error)
        ) from error
    if found != sha256:
        raise _error(path, f"must have SHA-256 {sha256}, as {CARD_FILE} says", found)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _error(path: Path, must: str, came: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: {must}; got {came}. Restore the folder, or make it again with coe train"
    )
