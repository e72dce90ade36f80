"""Requests made from the gateway's own description of itself: none makes it fail.

``make fuzz-api`` sends 10,000 of them (`FUZZ_CASES`), the usual run 100.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode

from tests.servers import Gateway, UpstreamServer, run_gateway, write_experts

CASES = int(os.environ.get("FUZZ_CASES", "100"))
TEXT = {"type": "string"}
MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": ["user", "system", "assistant", "tool"]},
        "content": {"anyOf": [TEXT, {"type": "array"}, {"type": "null"}]},
        "tool_calls": {"type": "array"},
    },
    "required": ["role", "content"],
}
BODY = {
    "type": "object",
    "properties": {
        "model": {"enum": ["auto", "good", "virtual", "nobody"]},
        "messages": {"type": "array", "items": MESSAGE, "minItems": 1},
        "prompt": {"anyOf": [TEXT, {"type": "array"}]},
        "input": {"anyOf": [TEXT, {"type": "array", "items": MESSAGE}]},
        "max_tokens": {"type": "integer", "minimum": 1},
        "stream": {"type": "boolean"},
        "cache": {"type": "boolean"},
        "tools": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["model", "messages"],
}
"""What is put in place of bodies that the description leaves to the expert."""


@pytest.fixture(scope="module")
def gateway(
    upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("openapi")
    shared = {"base_url": upstream.base_url, "model": "ok", "capabilities": ["tools", "vision"]}
    experts = [{"name": "good", **shared}, {"name": "virtual", **shared, "system_prompt": "Hi."}]
    config = write_experts(folder / "experts.yaml", experts, {})
    # on a busy machine stored responses could not be read in time, which is an honest 503
    with run_gateway(config, folder, COE_REDIS_TIMEOUT_MS="5000") as running:
        yield running


def operations(gateway: Gateway) -> list[Any]:
    """Return all operations but those that edit what is served."""
    raw = gateway.get("/openapi.json").json()
    for path, methods in raw["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            if content.get("application/json", {}).get("schema") == {"type": "object"}:
                content["application/json"]["schema"] = BODY
            edits = path.startswith("/admin") and not path.startswith("/admin/keys")
            if edits and method != "get":
                operation["deprecated"] = True
    schema = schemathesis.openapi.from_dict(raw).exclude(deprecated=True)
    return [result.ok() for result in schema.get_all_operations()]


def test_no_request_makes_the_gateway_fail(gateway: Gateway) -> None:
    found = operations(gateway)
    assert {"POST /v1/chat/completions", "POST /admin/keys"} <= {one.label for one in found}
    modes = [mode for mode in GenerationMode for _ in range(2 - (mode == GenerationMode.NEGATIVE))]
    cases = st.one_of([one.as_strategy(mode) for one in found for mode in modes])
    statuses: list[int] = []

    @settings(max_examples=CASES, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def throw(case: Case) -> None:
        answer = case.call(base_url=gateway.url, session=session, timeout=30)
        statuses.append(answer.status_code)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"], answer.text

    with requests.Session() as session:
        throw()
    assert len(statuses) >= CASES
    assert {200, 400} <= set(statuses)
    assert '"bug"' not in gateway.settled_log()
