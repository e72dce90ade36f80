"""The administrator's surface for the experts: read and edit them, on all replicas.

Every answer has the ``ETag`` of the experts file; an edit sends it back as ``If-Match``.
``?dry_run=true`` checks an edit only; ``?force=true`` makes one that would be refused for leaving
no expert that answers, or for removing an expert that others name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response

from gateway.api.body import read_body
from gateway.auth import authorize_admin
from gateway.errors import InvalidRequestError, NotFoundError
from gateway.live.changes import (
    changed_experts,
    merge_patched,
    shown_experts,
    shown_mapping,
    without_expert,
)
from gateway.live.editor import Edited, Editor, Terms, etag_of
from gateway.live.edits import put_expert, set_mapping
from gateway.live.versions import Version
from gateway.services import services_of

router = APIRouter(prefix="/admin")

MOST_BODY_BYTES = 1_000_000
_T = TypeVar("_T")
_BODY = {
    "requestBody": {
        "content": {"application/json": {"schema": {"type": "object"}}},
        "required": True,
    }
}


def asked_terms(
    if_match: Annotated[str | None, Header()] = None,
    dry_run: Annotated[bool, Query()] = False,
    force: Annotated[bool, Query()] = False,
) -> Terms:
    """Return under which terms a request edits."""
    return Terms(if_match, dry_run, force)


Asked = Annotated[Terms, Depends(asked_terms)]


@router.get("/experts")
async def list_experts(request: Request, response: Response) -> dict[str, Any]:
    """Return all experts as they are written."""
    version = await _current(request, response)
    return {"version": version.number, "experts": list(shown_experts(version.text).values())}


@router.get("/experts/{name}")
async def show_expert(request: Request, response: Response, name: str) -> dict[str, Any]:
    """Return an expert as it is written."""
    version = await _current(request, response)
    return {"version": version.number, "expert": _found(version.text, name)}


@router.put("/experts/{name}", openapi_extra=_BODY)
async def replace_expert(
    request: Request,
    response: Response,
    name: str,
    terms: Asked,
) -> dict[str, Any]:
    """Add an expert, or replace all keys of one."""
    editor = _editor(request)
    fields = await _read_body(request, dict[str, Any])
    if fields.pop("name", name) != name:
        raise InvalidRequestError("'name' must be the one in the path.", param="name")
    edited = await editor.edit(lambda text: put_expert(text, name, fields), terms)
    return _told(edited, terms, response, expert=_found(edited.after.text, name))


@router.patch("/experts/{name}", openapi_extra=_BODY)
async def change_expert(
    request: Request,
    response: Response,
    name: str,
    terms: Asked,
) -> dict[str, Any]:
    """Change keys of an expert by a JSON merge patch (RFC 7396): null takes a key out."""
    editor = _editor(request)
    patch = await _read_body(request, dict[str, Any])
    if patch.pop("name", name) != name:
        raise InvalidRequestError("'name' must be the one in the path.", param="name")
    _found((await editor.current()).text, name)
    edited = await editor.edit(lambda text: merge_patched(text, name, patch), terms)
    return _told(edited, terms, response, expert=_found(edited.after.text, name))


@router.delete("/experts/{name}")
async def delete_expert(
    request: Request,
    response: Response,
    name: str,
    terms: Asked,
) -> dict[str, Any]:
    """Remove an expert; forced, also one that the mapping or `general` names."""
    editor = _editor(request)
    _found((await editor.current()).text, name)
    edited = await editor.edit(lambda text: without_expert(text, name, force=terms.force), terms)
    return _told(edited, terms, response)


@router.get("/mapping")
async def show_mapping(request: Request, response: Response) -> dict[str, Any]:
    """Return the mapping as it is written: ranked experts by category, or table and presets."""
    version = await _current(request, response)
    return {"version": version.number, "mapping": shown_mapping(version.text)}


@router.put("/mapping", openapi_extra=_BODY)
async def replace_mapping(
    request: Request,
    response: Response,
    terms: Asked,
) -> dict[str, Any]:
    """Replace the mapping."""
    editor = _editor(request)
    mapping = await _read_body(request, dict[str, Any])
    edited = await editor.edit(lambda text: set_mapping(text, mapping), terms)
    return _told(edited, terms, response, mapping=shown_mapping(edited.after.text))


@router.get("/versions")
async def list_versions(request: Request, response: Response) -> dict[str, Any]:
    """Return the versions that can be gone back to, newest first."""
    version = await _current(request, response)
    kept = [
        {
            "version": one.number,
            "digest": one.digest,
            "written_at": one.written_at,
            "source": one.source,
            "experts": list(shown_experts(one.text)),
        }
        for one in await _editor(request).history()
    ]
    return {"version": version.number, "versions": kept}


class _Back(msgspec.Struct):
    version: int


@router.post("/rollback", openapi_extra=_BODY)
async def roll_back(
    request: Request,
    response: Response,
    terms: Asked,
) -> dict[str, Any]:
    """Make an earlier version, ``{"version": N}``, the newest one again."""
    editor = _editor(request)
    wanted = await _read_body(request, _Back)
    return _told(await editor.roll_back(wanted.version, terms), terms, response)


def _editor(request: Request) -> Editor:
    services = services_of(request)
    authorize_admin(request, services.settings)
    return services.editor


async def _current(request: Request, response: Response) -> Version:
    version = await _editor(request).current()
    response.headers["etag"] = etag_of(version)
    return version


async def _read_body(request: Request, kind: Callable[..., _T]) -> _T:
    body = await read_body(request, MOST_BODY_BYTES)
    try:
        return msgspec.json.decode(body, type=kind)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"The body must be a JSON object: {error}.") from error


def _found(text: str, name: str) -> dict[str, Any]:
    experts = shown_experts(text)
    if name not in experts:
        raise NotFoundError(f"No expert {name[:80]!r}. There are: {', '.join(experts)}.")
    return experts[name]


def _told(edited: Edited, terms: Terms, response: Response, **shown: object) -> dict[str, Any]:
    """Return what an edit did: experts can change with the one whose keys they take over."""
    if not terms.dry_run:
        response.headers["etag"] = etag_of(edited.after)
    return {
        "version": edited.after.number,
        "dry_run": terms.dry_run,
        "changed": changed_experts(edited.before.text, edited.after.text),
        **shown,
    }
