"""Whether experts answer at all: an edit must not leave a gateway without one that does."""

from __future__ import annotations

import asyncio

from gateway.backends.openai_http import OpenAIBackend
from gateway.errors import ConfigError, ExpertError, ExpertTimeoutError, ExpertUnavailableError
from gateway.experts import Expert, ExpertRegistry

ANSWER_TIMEOUT_S = 1.0


async def check_answers(
    backend: OpenAIBackend, new: ExpertRegistry, old: ExpertRegistry, force: str
) -> None:
    """Refuse experts of which none answers, while one of those before does.

    Parameters
    ----------
    force : str
        How to have them all the same.

    Raises
    ------
    ConfigError
        Saying so.
    """
    if await _any_answers(backend, new) or not await _any_answers(backend, old):
        return
    raise ConfigError(
        f"{new.path.name}: at least one expert must answer; none does. Start one of them, or force "
        f"it: {force}"
    )


async def _any_answers(backend: OpenAIBackend, registry: ExpertRegistry) -> bool:
    asking = [asyncio.create_task(_answers(backend, expert)) for expert in registry.values()]
    try:
        for first in asyncio.as_completed(asking):
            if await first:
                return True
        return False
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def _answers(backend: OpenAIBackend, expert: Expert) -> bool:
    if expert.base_url is None:  # run by the gateway itself, or a provider without an address
        return True
    try:
        await backend.get(expert, "models", ANSWER_TIMEOUT_S)
    except (ExpertUnavailableError, ExpertTimeoutError):
        return False
    except ExpertError:
        pass  # it answers, though not with a list of models
    return True
