"""Run openai-python's own tests of its resources against a gateway: ``make test-clients``.

Behind the gateway is a mock of the whole OpenAI API, which makes answers from its specification.
The same tests are run against that mock directly, so that what differs is the gateway's doing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import httpx

from tests.servers import Gateway, run_gateway, write_experts

FILES = ("chat", "test_completions.py", "test_embeddings.py", "test_models.py")
FILES += ("test_responses.py", "responses")
REASONS = {
    r"chat/.*::test_\w*(retrieve|update|list|delete)": "stored chat completions: "
    "the gateway stores none",
    r"api_resources/test_completions.*create.*overload_2": "the mock answers a stream with "
    "JSON: its specification knows no stream of text completions",
    r"test_models.*delete": "models are deleted in experts.yaml",
    r"test_responses.*(retrieve|delete|cancel)|test_input_items": "the test names a response that "
    "was never made; see tests/gateway/dialects",
    r"test_responses.*create_with_all_params": "the test names a previous response that was never "
    "made, and a conversation kept at OpenAI",
    r"test_responses.*create": "the test sends neither a model nor an input",
    r"test_responses.*compact": "not served: compaction is a provider's own",
    r"test_input_tokens": "the test sends neither a model nor an input",
}
"""Which tests may fail, and why; the first pattern that is found in a test's name counts."""
_MODELS = r'model="([^"]+)"'


@contextmanager
def running_mock(steady: Path, spec: Path, port: int) -> Iterator[str]:
    """Run the mock until the block ends."""
    command = [str(steady), "--host", "127.0.0.1", "-p", str(port)]
    for kind in ("query-array", "form-array", "query-object", "form-object"):
        command.append(f"--validator-{kind}-format=brackets")
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [*command, str(spec)], stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            for _ in range(300):
                try:
                    httpx.get(f"{url}/_x-steady/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # it is a script that starts the server


@contextmanager
def running_gateway(tests: Path, mock_url: str, folder: Path) -> Iterator[Gateway]:
    """Run a gateway with an expert for each model that the tests name."""
    sources = [path.read_text() for name in FILES for path in sorted(_sources(tests / name))]
    names = sorted(
        {name for text in sources for name in re.findall(_MODELS, text)} | {"gpt-4o-mini"}
    )
    shared = {
        "base_url": mock_url,
        "capabilities": ["tools", "json_schema", "vision", "audio", "embeddings"],
        "open_after_failures": None,
        "max_retries": 0,
    }
    experts = [{"name": name, **shared} for name in sorted(names)]
    config = write_experts(folder / "experts.yaml", experts, {})
    with run_gateway(config, folder) as gateway:
        yield gateway


def _sources(path: Path) -> list[Path]:
    return list(path.rglob("*.py")) if path.is_dir() else [path]


def outcomes(python: Path, sdk: Path, url: str) -> dict[str, bool]:
    """Return test -> whether it passed, of openai-python's tests against a URL."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = [f"tests/api_resources/{name}" for name in FILES]
        flags = ["-q", "-n0", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        subprocess.run(
            [str(python), "-m", "pytest", *flags, *files],
            cwd=sdk,
            env={"TEST_API_BASE_URL": url, "PATH": "/usr/bin:/bin"},
            stdout=subprocess.DEVNULL,
        )
        cases = ElementTree.parse(report).iter("testcase")  # our own file
        return {
            f"{case.get('classname')}::{case.get('name')}".replace(".", "/"): not len(case)
            for case in cases
        }


def reason(test: str) -> str | None:
    """Return why a test may fail; None when it may not."""
    return next((why for pattern, why in REASONS.items() if re.search(pattern, test)), None)


def main() -> int:
    """Print what passes, and what fails and why; 1 when a test fails that should not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="with openai and its test tools")
    parser.add_argument("--sdk", type=Path, required=True, help="openai-python's sources")
    parser.add_argument("--steady", type=Path, required=True, help="the mock server's command")
    parser.add_argument("--spec", type=Path, required=True, help="OpenAI's OpenAPI description")
    parser.add_argument("--port", type=int, default=4010)
    asked = parser.parse_args()
    python = Path.cwd() / asked.python  # a link into another environment must stay a link
    with (
        tempfile.TemporaryDirectory() as folder,
        running_mock(asked.steady, asked.spec, asked.port) as mock_url,
        running_gateway(asked.sdk / "tests/api_resources", mock_url, Path(folder)) as gateway,
    ):
        direct = outcomes(python, asked.sdk, mock_url)
        through = outcomes(python, asked.sdk, f"{gateway.url}/v1")
    failed = [test for test, passed in through.items() if not passed]
    unexplained = [test for test in failed if reason(test) is None]
    shown = {
        "cases": len(through),
        "pass_through_the_gateway": sum(through.values()),
        "pass_against_the_mock": sum(direct.values()),
        "fail_for_a_reason": Counter(reason(test) for test in failed if reason(test)),
        "fail": unexplained,
    }
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    return 1 if unexplained or not through else 0


if __name__ == "__main__":
    sys.exit(main())
