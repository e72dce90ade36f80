"""Edits of experts.yaml on disk while a gateway serves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers import (
    NOBODY_URL,
    REPO,
    Gateway,
    UpstreamServer,
    run_gateway,
    wait_for,
    write_experts,
)


def expert(upstream: UpstreamServer, name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "base_url": upstream.base_url, "model": "ok", **keys}


def config_of(gateway: Gateway) -> dict[str, Any]:
    return dict(gateway.get("/readyz").json()["config"])


def names(gateway: Gateway) -> list[str]:
    models = gateway.get("/v1/models").json()["data"]
    return [model["id"] for model in models if model["id"] != "auto"]


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_rename(path: Path, text: str) -> None:
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.replace(path)


def by_symlink(path: Path, text: str) -> None:
    """Swap a folder as Kubernetes does: experts.yaml -> ..data/experts.yaml -> ..N/experts.yaml."""
    folder = path.parent / f"..{len(list(path.parent.iterdir()))}"
    folder.mkdir()
    (folder / path.name).write_text(text)
    draft = path.parent / "..draft"
    draft.symlink_to(folder.name)
    draft.replace(path.parent / "..data")
    if not path.is_symlink():
        path.unlink()
        path.symlink_to(f"..data/{path.name}")


def test_an_edit_is_served_and_a_broken_one_is_reported(
    upstream: UpstreamServer, tmp_path: Path
) -> None:
    config = tmp_path / "conf" / "experts.yaml"
    config.parent.mkdir()
    router = tmp_path / "router"
    shutil.copytree(REPO / "routers/default", router)
    write_experts(config, [expert(upstream, "a")], {}, router=str(router))
    with run_gateway(config, tmp_path) as gateway:
        wait_for(lambda: config_of(gateway)["version"] == 1)
        for number, replace in enumerate((in_place, by_rename, by_symlink), 2):
            edit(gateway, config, replace, upstream, number)
        metrics = gateway.get("/metrics").text
        assert "coe_config_version 4.0" in metrics
        assert "coe_config_errors 3.0" in metrics
        gateway.wait_for_log("\ncoe: edit of the experts refused, nothing changed: experts.yaml:1")

        assert gateway.chat("auto").headers["x-coe-router"].startswith("default@")
        write_experts(config, [expert(upstream, "a")], {}, router=str(router))
        wait_for(lambda: names(gateway) == ["a"])
        card = router / "router.json"
        by_rename(card, card.read_text().replace('"name": "default"', '"name": "another"'))
        wait_for(lambda: gateway.chat("auto").headers["x-coe-router"].startswith("another@"))

        dead = {"name": "dead", "base_url": NOBODY_URL}
        write_experts(config, [dead], {}, router=str(router))
        wait_for(lambda: "at least one expert must answer" in str(config_of(gateway)["error"]))
        assert gateway.chat("auto").status_code == 200


def edit(
    gateway: Gateway,
    config: Path,
    replace: Callable[[Path, str], None],
    upstream: UpstreamServer,
    number: int,
) -> None:
    """Make a good edit and a broken one, and take the broken one back."""
    before, old = config_of(gateway), names(gateway)
    draft = config.with_name("next.json")
    name = f"b{number}"
    write_experts(draft, [expert(upstream, name), expert(upstream, "c")], {"math": ["c"]})
    replace(config, draft.read_text())
    wait_for(lambda: names(gateway) == [name, "c"])
    after = wait_for(lambda: config_of(gateway)["version"] == number and config_of(gateway))
    assert after["digest"] != before["digest"]
    assert after["error"] is None
    assert gateway.chat(name).status_code == 200
    assert gateway.chat(old[0]).status_code == 404

    replace(config, f"version: 1\ngeneral: {name}\nexpets: []\n")
    broken = wait_for(lambda: config_of(gateway)["error"])
    assert "experts.yaml:3: expets is not a key. Did you mean 'experts'?" in broken
    assert config_of(gateway)["version"] == number
    assert gateway.get("/readyz").status_code == 200
    assert gateway.chat(name).status_code == 200

    replace(config, draft.read_text())
    wait_for(lambda: config_of(gateway)["error"] is None)
    assert config_of(gateway)["version"] == number
