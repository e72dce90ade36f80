"""Tables in design notes: written by the commands that measure them, between two markers."""

from __future__ import annotations

import re
from pathlib import Path

END = "<!-- end of table -->"


def check_note(note: Path, start: str) -> None:
    """Refuse a note that has no place for a table, before anything is measured for it.

    Raises
    ------
    ValueError
        There is none between the line `start` and the next `END`, or no such note.
    """
    text = note.read_text(encoding="utf-8") if note.is_file() else ""
    if not _place(start).search(text):
        raise ValueError(f"{note} must hold {start} and {END}; add them where the table goes")


def write_table(note: Path, start: str, table: str) -> None:
    """Replace what stands between the line `start` and the next `END`; raises as `check_note`."""
    check_note(note, start)
    text = note.read_text(encoding="utf-8")
    replaced = _place(start).sub(lambda _: f"{start}\n{table}\n{END}", text, count=1)
    note.write_text(replaced, encoding="utf-8")


def _place(start: str) -> re.Pattern[str]:
    return re.compile(f"{re.escape(start)}.*?{re.escape(END)}", re.DOTALL)
