"""Say what pip-audit found: ``pip-audit -f json ... | python requirements/audit.py``.

Exit code 1 when a locked release has a known vulnerability. A machine that cannot reach the
vulnerability service is told so, in words that cannot be taken for a good result, and passes.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def verdict(report: str) -> tuple[int, str]:
    """Return the exit code and what to say of pip-audit's JSON report; '' when there is none."""
    try:
        found: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, "NOT AUDITED: the vulnerability service cannot be reached from this machine."
    audited = [entry for entry in found if "vulns" in entry]
    bad = [f"{e['name']} {e['version']}: {v['id']}" for e in audited for v in e["vulns"]]
    if bad:
        return 1, "\n".join([*bad, f"{len(bad)} known vulnerabilities; raise these versions."])
    if not audited:
        return 0, "NOT AUDITED: the vulnerability service knows none of these releases."
    skipped = [entry["name"] for entry in found if "vulns" not in entry]
    rest = f"; NOT AUDITED: {', '.join(skipped)}" if skipped else ""
    return 0, f"{len(audited)} locked releases have no known vulnerability{rest}."


if __name__ == "__main__":
    code, text = verdict(sys.stdin.read())
    sys.stdout.write(f"audit: {text}\n")
    sys.exit(code)
