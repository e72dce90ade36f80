"""Log lines are written together, and one that cannot be written does not stop the others."""

from __future__ import annotations

import io
import logging

import pytest

from gateway.logs import BatchHandler, JsonFormatter


def test_lines_are_written_in_their_order_and_a_broken_one_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    handler = BatchHandler(stream)
    handler.setFormatter(JsonFormatter())
    for message, value in (("first", 1), ("broken", object()), ("last", 2)):
        record = logging.makeLogRecord({"msg": message, "fields": {"value": value}})
        handler.handle(record)
    assert stream.getvalue() == ""
    handler.write_out()
    first, last = stream.getvalue().splitlines()
    assert '"message":"first","value":1' in first
    assert '"message":"last","value":2' in last
    assert "TypeError" in capsys.readouterr().err
