"""The administrator edits the experts of two replicas on one Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.live.versions import digest_of
from tests.servers import (
    NOBODY_URL,
    Gateway,
    UpstreamServer,
    Valkey,
    run_gateway,
    wait_for,
)

ANY = {"if-match": "*"}


class Replicas:
    """Two gateways on one Redis, each with its own copy of the file."""

    def __init__(self, first: Gateway, second: Gateway, files: list[Path]) -> None:
        self.first, self.second, self.files = first, second, files

    def admin(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        return httpx.request(method, f"{self.first.url}/admin/{path}", timeout=30, **kwargs)

    def level(self, number: int) -> None:
        """Wait until both serve a version and have it in their files."""
        for gateway in (self.first, self.second):
            wait_for(lambda: served(gateway)["version"] == number)  # noqa: B023
        (digest,) = {served(gateway)["digest"] for gateway in (self.first, self.second)}
        for file in self.files:
            wait_for(lambda: digest_of(file.read_text()) == digest)  # noqa: B023


def served(gateway: Gateway) -> dict[str, Any]:
    return dict(gateway.get("/readyz").json()["config"])


@pytest.fixture(scope="module")
def replicas(
    upstream: UpstreamServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    folder = tmp_path_factory.mktemp("replicas")
    valkey = Valkey(folder)
    valkey.start()
    files = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        files.append(write_file(folder / name / "experts.yaml", upstream))
    with (
        run_gateway(files[0], folder / "one", REDIS_URL=valkey.url, SECRET="s3cr3t") as first,
        run_gateway(files[1], folder / "two", REDIS_URL=valkey.url, SECRET="s3cr3t") as second,
    ):
        yield Replicas(first, second, files)
    valkey.kill()


def write_file(path: Path, upstream: UpstreamServer) -> Path:
    keys = {"backend": "openai", "base_url": upstream.base_url, "model": "ok"}
    lines = ["# ours", "version: 1", "general: a", "experts:"]
    for name in ("a", "b", "c"):
        lines += [f"  - name: {name}  # the expert {name}"]
        lines += [f"    {key}: {value}" for key, value in keys.items()]
    lines += ["    api_key_env: SECRET", "mapping:", "  math: [b]  # by test", "  law: [c]"]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def version(replicas: Replicas) -> int:
    """Return the number of the version that both serve."""
    number = int(replicas.admin("GET", "experts").json()["version"])
    replicas.level(number)
    return number


def test_an_edit_reaches_every_replica_and_its_file(replicas: Replicas, version: int) -> None:
    shown = replicas.admin("GET", "experts/b")
    expert = {**shown.json()["expert"], "description": "numbers"}
    etag = {"if-match": shown.headers["etag"]}
    put = replicas.admin("PUT", "experts/b", json=expert, headers=etag)
    assert put.status_code == 200, put.text
    assert put.json() | {"expert": None} == {
        "version": version + 1,
        "dry_run": False,
        "changed": ["b"],
        "expert": None,
    }
    replicas.level(version + 1)
    for gateway, file in zip((replicas.first, replicas.second), replicas.files, strict=True):
        models = {m["id"]: m for m in gateway.get("/v1/models").json()["data"]}
        assert models["b"]["description"] == "numbers"
        text = file.read_text()
        assert "description: numbers" in text
        assert text.startswith("# ours\n")
        assert "# the expert c" in text
    assert replicas.admin("GET", "experts/b").headers["etag"] == put.headers["etag"]


def test_the_second_of_two_editors_is_told_and_loses_nothing(
    replicas: Replicas, version: int
) -> None:
    etag = {"if-match": replicas.admin("GET", "experts").headers["etag"]}
    first = replicas.admin("PATCH", "experts/b", json={"max_queue": 7}, headers=etag)
    assert first.status_code == 200
    second = replicas.admin("PATCH", "experts/c", json={"max_queue": 8}, headers=etag)
    assert second.status_code == 412
    assert second.json()["error"]["code"] == "overtaken"
    again = {"if-match": replicas.admin("GET", "experts/c").headers["etag"]}
    assert replicas.admin("PATCH", "experts/c", json={"max_queue": 8}, headers=again).is_success
    queues = [
        replicas.admin("GET", f"experts/{name}").json()["expert"]["max_queue"] for name in "bc"
    ]
    assert queues == [7, 8]
    replicas.level(version + 2)


def test_experts_come_and_go(replicas: Replicas, version: int, upstream: UpstreamServer) -> None:
    new = {"backend": "openai", "base_url": upstream.base_url, "model": "ok"}
    assert replicas.admin("PUT", "experts/d", json=new, headers=ANY).json()["changed"] == ["d"]
    replicas.level(version + 1)
    assert replicas.second.chat("d").status_code == 200
    mapping = replicas.admin("PUT", "mapping", json={"math": ["d"]}, headers=ANY)
    assert mapping.json()["mapping"] == {"math": ["d"]}
    assert replicas.admin("GET", "mapping").json()["mapping"] == {"math": ["d"]}
    refused = replicas.admin("DELETE", "experts/d", headers=ANY)
    assert refused.status_code == 400
    assert "expert 'd' is named by mapping.math" in refused.json()["error"]["message"]
    forced = replicas.admin("DELETE", "experts/d?force=true", headers=ANY)
    assert forced.status_code == 200
    assert replicas.admin("GET", "mapping").json()["mapping"] == {}
    replicas.level(version + 3)
    assert replicas.second.chat("d").status_code == 404


def test_a_rollback_brings_an_earlier_version_back(replicas: Replicas, version: int) -> None:
    before = replicas.files[0].read_text()
    replicas.admin("PATCH", "experts/a", json={"description": "x"}, headers=ANY)
    replicas.level(version + 1)
    back = replicas.admin("POST", "rollback", json={"version": version}, headers=ANY)
    assert back.json()["changed"] == ["a"]
    replicas.level(version + 2)
    assert replicas.files[1].read_text() == before
    kept = replicas.admin("GET", "versions").json()["versions"]
    assert [one["version"] for one in kept[:3]] == [version + 2, version + 1, version]
    assert kept[0]["digest"] == kept[2]["digest"]
    gone = replicas.admin("POST", "rollback", json={"version": 999}, headers=ANY)
    assert gone.status_code == 404


def test_an_edit_on_disk_reaches_the_other_replica(replicas: Replicas, version: int) -> None:
    file = replicas.files[1]
    file.write_text(file.read_text().replace("# ours", "# ours, edited"))
    replicas.level(version + 1)
    assert replicas.files[0].read_text() == file.read_text()
    # back to what it was: an edit like any other
    file.write_text(file.read_text().replace("# ours, edited", "# ours"))
    replicas.level(version + 2)


def test_a_dry_run_changes_nothing(replicas: Replicas, version: int) -> None:
    dry = replicas.admin("PATCH", "experts/a?dry_run=true", json={"max_queue": 1})
    assert dry.json()["expert"]["max_queue"] == 1
    assert dry.json()["changed"] == ["a"]
    bad = replicas.admin("PATCH", "experts/a?dry_run=true", json={"max_queue": -1})
    assert "max_queue must be greater than or equal to 0; got -1" in bad.json()["error"]["message"]
    assert replicas.admin("GET", "experts/a").json()["version"] == version


DEEP: list[Any] = []
for _ in range(450):
    DEEP = [DEEP]

REFUSED: list[tuple[str, str, Any, str]] = [
    ("PUT", "experts/x", {}, "backend is missing"),
    ("PUT", "experts/x", {"backend": "openai", "model": "m"}, "base_url is missing"),
    ("PUT", "experts/b", {"name": "a"}, "'name' must be the one in the path"),
    ("PUT", "experts/b%0Ax", {"backend": "openai"}, "name must"),
    ("PATCH", "experts/b", {"maxqueue": 1}, "Did you mean 'max_queue'?"),
    ("PATCH", "experts/b", {"max_queue: 1\nmodel": 1}, "is not a key"),
    ("PATCH", "experts/b", {"api_key_env": "NOT_SET"}, "NOT_SET (api_key_env) must hold its key"),
    ("PATCH", "experts/b", {"base_url": "http://u:p@host/v1"}, "no user:password"),
    ("PATCH", "experts/b", {"backend": "local", "base_url": None, "model": "x.gguf"}, "no file at"),
    ("DELETE", "experts/a", None, "expert 'a' is named by general"),
    ("PUT", "mapping", {"math": ["nobody"]}, "mapping.math[0] must name an expert"),
    ("PUT", "mapping", {"maths": ["a"]}, "mapping.maths must be a category of the router"),
    ("PUT", "mapping", {"table": "t.json", "presets": {"default": 0}}, "must be a mapping that"),
    ("PUT", "mapping", {"math": DEEP}, "nested too deeply"),
    ("PUT", "mapping", [], "The body must be a JSON object"),
    ("POST", "rollback", {}, "The body must be a JSON object"),
]


@pytest.mark.parametrize(("method", "path", "body", "message"), REFUSED)
def test_what_would_break_it_is_refused_and_nothing_changes(
    replicas: Replicas, version: int, method: str, path: str, body: Any, message: str
) -> None:
    content = b"" if body is None else json.dumps(body).encode()
    refused = replicas.admin(method, path, content=content, headers=ANY)
    assert refused.status_code == 400, refused.text
    assert message in refused.json()["error"]["message"]
    assert replicas.admin("GET", "experts").json()["version"] == version


def test_experts_of_which_none_answers_are_served_by_force_only(
    replicas: Replicas, version: int
) -> None:
    def point(name: str, url: str, query: str = "") -> httpx.Response:
        return replicas.admin(
            "PATCH", f"experts/{name}{query}", json={"base_url": url}, headers=ANY
        )

    for name in ("a", "b"):
        assert point(name, NOBODY_URL).status_code == 200
    refused = point("c", NOBODY_URL)
    assert refused.status_code == 400
    assert "at least one expert must answer; none does" in refused.json()["error"]["message"]
    assert point("c", NOBODY_URL, "?force=true").status_code == 200
    replicas.level(version + 3)
    body = json.dumps({"version": version})
    assert replicas.admin("POST", "rollback", content=body, headers=ANY).status_code == 200
    replicas.level(version + 4)


def test_an_edit_must_say_what_it_edits(replicas: Replicas, version: int) -> None:
    for headers, status in ({}, 428), ({"if-match": '"x"'}, 412), ({"if-match": "W/*"}, 412):
        edit = replicas.admin("PATCH", "experts/a", json={"max_queue": 1}, headers=headers)
        assert edit.status_code == status
    assert replicas.admin("GET", "experts/nobody").status_code == 404
    assert replicas.admin("DELETE", "experts/nobody", headers=ANY).status_code == 404


def test_no_secret_is_shown(replicas: Replicas, version: int) -> None:
    for path in ("experts", "experts/c", "mapping", "versions"):
        shown = replicas.admin("GET", path)
        assert shown.status_code == 200
        assert "s3cr3t" not in shown.text


def test_requests_under_way_finish_on_what_they_started_with(
    replicas: Replicas, version: int, upstream: UpstreamServer
) -> None:
    new = {"backend": "openai", "base_url": upstream.base_url, "model": "paced"}
    replicas.admin("PUT", "experts/paced", json=new, headers=ANY)
    replicas.level(version + 1)
    body = {"model": "paced", "messages": [{"role": "user", "content": "x"}], "stream": True}
    url = f"{replicas.second.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=30) as answer:
        chunks: Iterator[str] = answer.iter_text()
        next(chunks)
        replicas.admin("DELETE", "experts/paced", headers=ANY)
        assert "".join(chunks).rstrip().endswith("data: [DONE]")
    replicas.level(version + 2)
    assert replicas.second.chat("paced").status_code == 404
