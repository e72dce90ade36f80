"""Tables in design notes: written by the commands that measure them, between two markers."""

from __future__ import annotations

import re
from pathlib import Path

END = "<!-- end of table -->"


def write_table(note: Path, start: str, table: str) -> None:
    """Replace what stands between the line `start` and the next `END` in a note.

    Raises
    ------
    ValueError
        When the note has no such place.
    """
    text = note.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{note} must hold {start} and {END}; add them where the table goes")
    replaced = pattern.sub(lambda _: f"{start}\n{table}\n{END}", text, count=1)
    note.write_text(replaced, encoding="utf-8")
