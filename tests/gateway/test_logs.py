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


class FullDisk(io.StringIO):
    """A stream that cannot be written for a while."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_what_cannot_be_written_is_lost_and_later_lines_are_not() -> None:
    stream = FullDisk()
    handler = BatchHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.handle(logging.makeLogRecord({"msg": "lost"}))
    handler.write_out()
    stream.full = False
    handler.handle(logging.makeLogRecord({"msg": "kept"}))
    handler.write_out()
    (line,) = stream.getvalue().splitlines()
    assert '"message":"kept"' in line
