"""Score experts: ask each of them the same prompts over HTTP, and write a score table."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import aiohttp
import msgspec
from msgspec.structs import replace

from eval.grading import JUDGE, METRICS, Grader
from routers.data import capped, read_lines
from routers.kept import read_kept
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
        None where the judge gave no mark: the table leaves it out, a later run has it judged again.
    seconds : float or None
        That the answer took; None, as below, in logs that did not note it.
    prompt : str or None
        Digest of what was asked.
    max_tokens : int or None
        Most that the answer could have.
    graded : str or None
        By which metric, and a digest of what else the score depends on.
    """

    id: str
    expert: str
    score: float | None
    answer: str
    seconds: float | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    graded: str | None = None


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


@dataclass(frozen=True, slots=True)
class _Task:
    """An answer that is to be scored; `kept` is the one of the log, None = it must be asked for."""

    question: Question
    expert: str
    kept: Scored | None


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
) -> tuple[list[Scored], int]:
    """Ask every expert every question that it has not answered yet; write the table.

    Every answer goes to ``OUT.answers.jsonl`` at once: a run that was cut goes on where it was, and
    a later run with another expert adds its column. Answers to another prompt, or with another
    `max_tokens`, are asked for anew; those that were scored otherwise, or not, are scored anew,
    also those of experts that are not named.

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
        The answers that were scored.
    int
        How many of them were asked for.

    Raises
    ------
    ScoringError
        An expert fails, time after time; the answers so far are kept. Or a judge is needed and
        none is named.
    """
    if endpoint.judge is None and any((q.metric or metric) == JUDGE for q in questions):
        raise ScoringError("the metric judge needs an expert that judges. Name one with --judge")
    log = out.with_name(f"{out.name}.answers.jsonl")
    known = read_kept(log, _scored, "an answer")
    todo = _left(questions, experts, known, endpoint, metric)
    out.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        fresh = asyncio.run(_score_all(todo, endpoint, metric, file, progress)) if todo else []
    fit = {q.id: (_digest(q.prompt), _graded(q, endpoint, metric)) for q in questions}
    last = {(one.id, one.expert): one for one in [*known, *fresh]}.values()
    _write_table(
        questions, [one for one in last if fit.get(one.id) == (one.prompt, one.graded)], out
    )
    return fresh, sum(task.kept is None for task in todo)


def _left(
    questions: Sequence[Question],
    experts: Sequence[str],
    known: Sequence[Scored],
    endpoint: Endpoint,
    metric: str,
) -> list[_Task]:
    """Return what is still to be scored, also of what experts that are not named have answered."""
    log = {(one.id, one.expert): one for one in known}
    tasks = []
    for expert in dict.fromkeys([*experts, *(one.expert for one in known)]):
        named = expert in experts
        for question in questions:
            kept = log.get((question.id, expert))
            if kept is not None and not _answers(kept, question, endpoint if named else None):
                kept = None
            if kept is None and not named:
                continue
            graded = _graded(question, endpoint, metric)
            if kept is None or kept.score is None or kept.graded != graded:
                tasks.append(_Task(question, expert, kept))
    return tasks


def _answers(kept: Scored, question: Question, endpoint: Endpoint | None) -> bool:
    """Say whether a logged answer is one to this question, and asked for as this endpoint would."""
    same = kept.prompt in (None, _digest(question.prompt))
    return same and (endpoint is None or kept.max_tokens in (None, endpoint.max_tokens))


def _graded(question: Question, endpoint: Endpoint, metric: str) -> str:
    """Return what a score depends on beside the prompt and its answer."""
    chosen = question.metric or metric
    return f"{chosen}:{_digest(question.answer, endpoint.judge if chosen == JUDGE else None)}"


def _digest(*parts: str | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _scored(line: bytes) -> Scored:
    return msgspec.json.decode(line, type=Scored)


async def _score_all(
    todo: Sequence[_Task],
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

        async def one(task: _Task) -> None:
            question, kept = task.question, task.kept
            prompt = _digest(question.prompt)
            if kept is None:
                async with places:
                    started_s = time.perf_counter()
                    answer = await _ask(session, endpoint, question.prompt, task.expert)
                    seconds = round(time.perf_counter() - started_s, 3)
                asked = answer, seconds, prompt, endpoint.max_tokens
                kept = Scored(question.id, task.expert, None, *asked)
            wanted = question.metric or metric, question.prompt, question.answer
            score = await grader.score(*wanted, kept.answer)
            graded = _graded(question, endpoint, metric)
            scored.append(replace(kept, score=score, prompt=prompt, graded=graded))
            log.write(msgspec.json.encode(scored[-1]).decode() + "\n")
            log.flush()
            progress("asking", len(scored), len(todo))

        # one question each first: an expert that is misnamed or down is told before the others work
        first = {task.expert: task for task in reversed(todo) if task.kept is None}.values()
        try:
            for tasks in (first, [task for task in todo if task not in first]):
                async with asyncio.TaskGroup() as group:
                    for task in tasks:
                        group.create_task(one(task))
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
        if one.score is not None:
            scores[one.id][one.expert] = one.score
    scratch = out.with_name(f".{out.name}.new")
    with scratch.open("w", encoding="utf-8") as file:
        for q in questions:
            by_expert = dict(sorted(scores[q.id].items()))  # whoever answered first
            row = {"id": q.id, "prompt": q.prompt, "category": q.category, "scores": by_expert}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    scratch.replace(out)
