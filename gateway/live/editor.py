"""The administrator's edits: made on the newest version, checked, and published to all replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.backends.openai_http import OpenAIBackend
from gateway.composition import checked_registry
from gateway.config import parse_experts_file
from gateway.errors import (
    CacheError,
    ConfigError,
    EditsUnavailableError,
    InvalidRequestError,
    NotFoundError,
    OvertakenEditError,
    UnconditionalEditError,
)
from gateway.experts import ExpertRegistry
from gateway.live.answering import check_answers
from gateway.live.versions import OvertakenError, Version, VersionStore
from gateway.supervisor.plan import expert_specs


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which terms an edit is made.

    Attributes
    ----------
    if_match : str or None
        The ``If-Match`` header: the state that was edited, or ``*`` for any.
    dry_run : bool
        Check only.
    force : bool
        Serve it even if no expert answers, and take out an expert that others name.
    """

    if_match: str | None
    dry_run: bool
    force: bool


@dataclass(frozen=True, slots=True)
class Edited:
    """What an edit led to; `after` was not published in a dry run."""

    before: Version
    after: Version


def etag_of(version: Version) -> str:
    """Return the entity tag of the experts file: one for all that it holds."""
    return f'"{version.digest}"'


class Editor:
    """Edits the experts of all replicas.

    Parameters
    ----------
    store : VersionStore
        Shared with the replicas.
    path : Path
        The experts file: relative paths in it start from its folder.
    run_dir : Path
        The parent's folder.
    environ : Mapping of str to str
        Where the keys of the experts must be.
    backend : OpenAIBackend
        Asks experts whether they answer.
    """

    def __init__(
        self,
        store: VersionStore,
        path: Path,
        run_dir: Path,
        environ: Mapping[str, str],
        backend: OpenAIBackend,
    ) -> None:
        self._store = store
        self._path = path
        self._run_dir = run_dir
        self._environ = environ
        self._backend = backend

    async def aclose(self) -> None:
        """Close the connections to Redis."""
        await self._store.aclose()

    async def current(self) -> Version:
        """Return the newest version.

        Raises
        ------
        EditsUnavailableError
            When Redis cannot be asked.
        """
        try:
            found = await self._store.current()
        except CacheError as error:
            raise _unavailable() from error
        if found is None:  # the gateway has just started, or Redis has
            raise _unavailable()
        return found

    async def history(self) -> list[Version]:
        """Return the versions that are kept, newest first; raises as `current`."""
        try:
            return await self._store.history()
        except CacheError as error:
            raise _unavailable() from error

    async def edit(self, change: Callable[[str], str], terms: Terms) -> Edited:
        """Publish the newest text, changed.

        Raises
        ------
        UnconditionalEditError, OvertakenEditError
            When the terms do not say which state is edited, or it is not the newest any more.
        InvalidRequestError
            When the changed text would not be served, or would leave no expert that answers.
        EditsUnavailableError
            When Redis cannot be asked.
        """
        before = await self.current()
        _check_match(before, terms)
        try:
            text = await asyncio.to_thread(change, before.text)
            registry = await asyncio.to_thread(self._checked, text)
            if not terms.force:
                old = await asyncio.to_thread(self._parsed, before.text)
                await check_answers(self._backend, registry, old, "?force=true")
        except ConfigError as error:
            raise InvalidRequestError(str(error)) from error
        except RecursionError as error:
            raise InvalidRequestError("The edit is nested too deeply.") from error
        if terms.dry_run:
            return Edited(before, Version(before.number, text, before.written_at, "admin"))
        try:
            after = await self._store.publish(text, "admin", base=before.digest)
        except OvertakenError as error:
            raise _overtaken() from error
        except CacheError as error:
            raise _unavailable() from error
        return Edited(before, after)

    async def roll_back(self, number: int, terms: Terms) -> Edited:
        """Publish the text of an earlier version again; raises as `edit`, and `NotFoundError`."""
        kept = {version.number: version.text for version in await self.history()}
        if number not in kept:
            shown = ", ".join(map(str, kept))
            raise NotFoundError(f"'version' must be one of {shown}; got {number}.", param="version")
        return await self.edit(lambda _: kept[number], terms)

    def _parsed(self, text: str) -> ExpertRegistry:
        return ExpertRegistry(parse_experts_file(text, self._path.name), self._path)

    def _checked(self, text: str) -> ExpertRegistry:
        registry = checked_registry(text, self._path, self._environ)
        expert_specs(registry, self._run_dir)  # are the weights of local experts there?
        return registry


def _check_match(current: Version, terms: Terms) -> None:
    if terms.if_match is None:
        if not terms.dry_run:
            raise UnconditionalEditError(
                "An edit must say what it edits. Send If-Match with the ETag of what you read, or "
                "If-Match: * to edit whatever is there."
            )
        return
    tags = [tag.strip() for tag in terms.if_match.split(",")]
    if not {"*", etag_of(current)} & set(tags):
        raise _overtaken()


def _overtaken() -> OvertakenEditError:
    return OvertakenEditError(
        "The experts were edited by somebody else in between. Read them again, and edit that."
    )


def _unavailable() -> EditsUnavailableError:
    return EditsUnavailableError(
        "Redis, where edits are kept, cannot be asked. Try again, or edit the experts file.",
        retry_after_s=1,
    )
