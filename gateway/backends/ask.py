"""Ask an expert one question from a thread: how the LLM router reaches its model."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.backends.openai_http import base_url
from gateway.experts import Expert
from routers.base import RouterError

_BAD_REQUESTS = {400, 413, 422}
"""Statuses that say that the text is the reason, e.g. that it is too long."""


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ExpertAsk:
    """Asks an expert; see `routers.llm.Ask`. Safe to use from several threads.

    Parameters
    ----------
    expert : Expert
        Whom to ask.
    socket_path : Path or None
        Unix socket of a local expert; None for any other.
    api_key : str or None
        Its key.
    timeout_s : float
        Longest silence while waiting for the answer, in seconds.
    """

    def __init__(
        self, expert: Expert, socket_path: Path | None, api_key: str | None, timeout_s: float
    ) -> None:
        self._expert = expert
        self._socket_path = socket_path
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s

    def __call__(self, body: dict[str, Any]) -> Mapping[str, Any]:
        """Return the expert's chat completion; raises `RouterError` when there is none."""
        url = urlsplit(base_url(self._expert))
        connection = self._connection(url.scheme, url.netloc)
        payload = json.dumps({"model": self._expert.model, **body})
        name = self._expert.name
        try:
            connection.request("POST", f"{url.path}/chat/completions", payload, self._headers)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                message = f"expert {name!r} answered {response.status} to the LLM router"
                raise RouterError(message, of_text=response.status in _BAD_REQUESTS)
            answer: Mapping[str, Any] = json.loads(content)
        except (OSError, HTTPException, ValueError) as error:
            raise RouterError(
                f"expert {name!r} did not answer the LLM router: {type(error).__name__}"
            ) from error
        finally:
            connection.close()
        return answer

    def _connection(self, scheme: str, netloc: str) -> HTTPConnection:
        if self._socket_path is not None:
            return _UnixConnection(self._socket_path, self._timeout_s)
        kind = HTTPSConnection if scheme == "https" else HTTPConnection
        return kind(netloc, timeout=self._timeout_s)
