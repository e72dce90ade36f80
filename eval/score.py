"""Score experts: ask each of them the same prompts over HTTP, and write a score table."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import aiohttp
import msgspec

from eval.grading import JUDGE, METRICS, Grader
from routers.data import capped, read_lines
from routers.progress import Progress, silent

_WANTED = '{"id": str, "prompt": str, "category": str or null, "answer": str}'
_TRIES = 3


class ScoringError(ValueError):
    """Experts cannot be scored; the message says why."""


class Question(msgspec.Struct, frozen=True):
    """A prompt with the answer that is wanted.

    Attributes
    ----------
    answer : str
        What to compare with: for `code` tests, for `judge` a reference or nothing.
    metric : str or None
        One of `eval.grading.METRICS`; None = the run's own.
    """

    id: str
    prompt: str
    answer: str
    category: str | None = None
    metric: str | None = None


class Scored(msgspec.Struct, frozen=True):
    """One expert's answer to one question, as kept in the log that a run resumes from.

    Attributes
    ----------
    score : float or None
        None where the judge gave no mark: the table leaves it out.
    seconds : float or None
        That the answer took; None in logs that did not note it.
    """

    id: str
    expert: str
    score: float | None
    answer: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where experts are asked.

    Attributes
    ----------
    url : str
        Up to and with ``/v1``: a gateway, or any server of the OpenAI protocol.
    key : str or None
        Sent as bearer token.
    concurrency : int
        Answers under way at the same time.
    max_tokens : int
        Of one answer.
    judge : str or None
        The expert that judges, at the same address.
    timeout_s : float
        Longest wait for one answer.
    """

    url: str
    key: str | None
    concurrency: int = 8
    max_tokens: int = 1024
    judge: str | None = None
    timeout_s: float = 300.0


def read_questions(paths: Sequence[Path], per_category: int | None, seed: int) -> list[Question]:
    """Read questions, at most `per_category` of each category, chosen by `seed`."""
    questions = read_lines(paths, _question, _WANTED)
    ids = [question.id for question in questions]
    if len(set(ids)) < len(ids):
        double = next(one for one in ids if ids.count(one) > 1)
        raise ScoringError(f"ids must be unique; {double!r} comes twice. Rename one")
    return capped(questions, per_category, lambda question: question.category, seed)


def _question(line: bytes) -> Question:
    question = msgspec.json.decode(line, type=Question)
    if question.metric is not None and question.metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}; got {question.metric!r}")
    return question


def score_experts(
    questions: Sequence[Question],
    experts: Sequence[str],
    endpoint: Endpoint,
    metric: str,
    out: Path,
    progress: Progress = silent,
) -> list[Scored]:
    """Ask every expert every question that it has not answered yet; write the table.

    Every answer goes to ``OUT.answers.jsonl`` at once: a run that was cut goes on where it was, and
    a later run with another expert adds its column.

    Parameters
    ----------
    questions : sequence of Question
    experts : sequence of str
        What `model` is in the requests.
    endpoint : Endpoint
    metric : str
        One of `eval.grading.METRICS`, for questions that name none.
    out : Path
        The score table, written whole when all is answered.

    Returns
    -------
    list of Scored
        The answers that were asked for.

    Raises
    ------
    ScoringError
        An expert fails, time after time; the answers so far are kept. Or a judge is needed and
        none is named.
    """
    if endpoint.judge is None and any((q.metric or metric) == JUDGE for q in questions):
        raise ScoringError("the metric judge needs an expert that judges. Name one with --judge")
    log = out.with_name(f"{out.name}.answers.jsonl")
    begun = log.exists() and log.stat().st_size > 0
    known = read_lines([log], _scored, "an answer") if begun else []
    done = {(one.id, one.expert) for one in known}
    todo = [(q, name) for name in experts for q in questions if (q.id, name) not in done]
    out.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        fresh = asyncio.run(_ask_all(todo, endpoint, metric, file, progress)) if todo else []
    _write_table(questions, [*known, *fresh], out)
    return fresh


def _scored(line: bytes) -> Scored:
    return msgspec.json.decode(line, type=Scored)


async def _ask_all(
    todo: Sequence[tuple[Question, str]],
    endpoint: Endpoint,
    metric: str,
    log: IO[str],
    progress: Progress,
) -> list[Scored]:
    headers = {"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    timeout = aiohttp.ClientTimeout(total=endpoint.timeout_s)
    places = asyncio.Semaphore(endpoint.concurrency)
    scored: list[Scored] = []

    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:

        async def ask_judge(prompt: str) -> str:
            async with places:
                return await _ask(session, endpoint, prompt, str(endpoint.judge))

        grader = Grader(ask_judge)

        async def one(question: Question, expert: str) -> None:
            async with places:
                started_s = time.perf_counter()
                answer = await _ask(session, endpoint, question.prompt, expert)
                seconds = round(time.perf_counter() - started_s, 3)
            wanted = question.metric or metric, question.prompt, question.answer
            score = await grader.score(*wanted, answer)
            scored.append(Scored(question.id, expert, score, answer, seconds))
            log.write(msgspec.json.encode(scored[-1]).decode() + "\n")
            log.flush()
            progress("asking", len(scored), len(todo))

        try:
            async with asyncio.TaskGroup() as group:
                for question, expert in todo:
                    group.create_task(one(question, expert))
        except* ScoringError as errors:
            raise errors.exceptions[0] from None
    return scored


async def _ask(session: aiohttp.ClientSession, endpoint: Endpoint, prompt: str, expert: str) -> str:
    body = {
        "model": expert,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": endpoint.max_tokens,
        "temperature": 0,
    }
    fault = ""
    for attempt in range(_TRIES):
        await asyncio.sleep(attempt)
        try:
            async with session.post(f"{endpoint.url}/chat/completions", json=body) as response:
                text = await response.text()
                if response.status == 200:
                    return str(json.loads(text)["choices"][0]["message"]["content"] or "")
                fault = f"{response.status}: {text[:200]}"
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
            fault = f"{type(error).__name__}: {error}"
    raise ScoringError(
        f"{expert} at {endpoint.url} must answer; got {fault}. Mend it and run the command again: "
        "it goes on where it was"
    )


def _write_table(questions: Sequence[Question], scored: Sequence[Scored], out: Path) -> None:
    scores: dict[str, dict[str, float]] = {question.id: {} for question in questions}
    for one in scored:
        if one.id in scores and one.score is not None:
            scores[one.id][one.expert] = one.score
    scratch = out.with_name(f".{out.name}.new")
    with scratch.open("w", encoding="utf-8") as file:
        for q in questions:
            by_expert = dict(sorted(scores[q.id].items()))  # whoever answered first
            row = {"id": q.id, "prompt": q.prompt, "category": q.category, "scores": by_expert}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    scratch.replace(out)
