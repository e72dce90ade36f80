"""Write an experts file: all of it or nothing, and through a symbolic link."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import NamedTemporaryFile


def replace_text(path: Path, text: str) -> None:
    """Replace a file's text at once; its permissions stay, and so does a link that leads to it.

    Raises
    ------
    OSError
        When the folder cannot be written to; the file is as it was then.
    """
    target = path.resolve()
    with NamedTemporaryFile(
        "w",
        encoding="utf-8",
        newline="",
        dir=target.parent,
        prefix=f".{target.name}.",
        delete=False,
    ) as draft:
        try:
            draft.write(text)
            draft.flush()
            os.fsync(draft.fileno())
            if target.exists():
                shutil.copymode(target, draft.name)
            Path(draft.name).replace(target)
        except OSError:
            Path(draft.name).unlink(missing_ok=True)
            raise
