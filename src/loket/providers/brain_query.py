"""Words: what of a text is indexed, and what of a question is looked for. English, with other scripts by letter pairs.

Stop words leave both sides, irregular forms become their base (the index's Porter stemmer does the regular ones).
Dropping words that are merely frequent costs recall (1 to 13 points on LoCoMo), so nothing else is dropped.
"""

import datetime as dt
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import combinations

MOST_TERMS = 64
"""Words of a question that are looked for, from its start."""

_STOP_WORDS = """
    a an the and or but if of to in on at by for with from as is are was were be been being am do does did doing done
    have has had having i you he she it we they me him her us them my your his its our their mine yours hers ours
    theirs this that these those there here what which who whom whose when where why how not no nor so than too very
    can could will would shall should might must just about into over after before during between through up down out
    off again then once all any both each few more most other some such only own same many much kind type sort let
    cannot
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_IRREGULAR = """
    have has had having; go goes went gone; get got gotten getting; make made; say said; see saw seen; take took taken;
    come came; know knew known; think thought; give gave given; find found; tell told; feel felt; leave left; keep kept;
    begin began begun; show shown; hear heard; run ran; hold held; bring brought; write wrote written; sit sat;
    stand stood; lose lost; pay paid; meet met; lead led; understand understood; speak spoke spoken; spend spent;
    grow grew grown; win won; teach taught; buy bought; send sent; build built; fall fell fallen; catch caught;
    draw drew drawn; choose chose chosen; drive drove driven; break broke broken; sing sang sung; swim swam swum;
    fly flew flown flies; throw threw thrown; wear wore worn; eat ate eaten; drink drank drunk; sleep slept;
    wake woke woken; forget forgot forgotten; sell sold; fight fought; ride rode ridden; rise rose risen;
    shake shook shaken; steal stole stolen; hide hid hidden; bite bit bitten; blow blew blown; freeze froze frozen;
    tear tore torn; bear bore born borne; become became; deal dealt; mean meant; dream dreamt; learn learnt;
    burn burnt; seek sought; shoot shot; stick stuck; strike struck stricken; swear swore sworn; sweep swept;
    swing swung; bend bent; lend lent; feed fed; bleed bled; breed bred; flee fled; dig dug; hang hung; lay laid;
    lie lain; light lit; ring rang rung; shine shone; sink sank sunk; spin spun; spring sprang sprung;
    weave wove woven; forgive forgave forgiven; arise arose arisen; awake awoke awoken; beat beaten;
    bind bound; cling clung; creep crept; forbid forbade forbidden; kneel knelt; leap leapt; prove proven;
    shrink shrank shrunk; slide slid; spell spelt; spill spilt; spit spat; spoil spoilt; sting stung; stink stank stunk;
    strive strove striven; swell swollen; undergo underwent undergone; withdraw withdrew withdrawn; overcome overcame;
    undertake undertook undertaken; mistake mistook mistaken; rebuild rebuilt; rewrite rewrote rewritten;
    sew sewn; sow sown; mow mown; knit knitted;
    child children; person people; man men; woman women; foot feet; tooth teeth; mouse mice; goose geese; ox oxen;
    wife wives; knife knives; half halves; shelf shelves; wolf wolves; thief thieves;
    loaf loaves; calf calves; scarf scarves; hoof hooves; cactus cacti; fungus fungi; nucleus nuclei;
    criterion criteria; phenomenon phenomena; analysis analyses; crisis crises; thesis theses; datum data;
    medium media; die dice died dying; good better best; bad worse worst; far further farther furthest farthest
"""

IRREGULAR: dict[str, str] = {
    form: group.split()[0] for group in _IRREGULAR.split(";") for form in group.split()[1:] if group.strip()
}
"""Form to base: `went` to `go`, `children` to `child`. Forms that are another word's too (`lives`) are left out."""

_MONTHS = "january february march april may june july august september october november december"
_DAYS = "monday tuesday wednesday thursday friday saturday sunday"
_TIME_WORDS = f"""
    yesterday today tonight tomorrow last next ago week month year weekend day night morning afternoon evening recently
    since {_MONTHS} {_DAYS}
"""
TIME_WORDS = frozenset(_TIME_WORDS.split())

_CLITIC = re.compile("(?:\\b(?:ca|wo|sha))?n['\u2019]t\\b|['\u2019](?:s|d|ll|m|re|ve|t)\\b")
_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
"""Runs of scripts that put no spaces between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese)."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_ASKS_WHEN = re.compile(r"\s*(?:when|how long|(?:what|which) (?:date|day|month|year|time))\b", re.IGNORECASE)


def fold(text: str) -> str:
    """A text as it is compared: compatibility forms joined, letter case and marks removed, blanks at its ends too."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in apart if not unicodedata.combining(char)).strip()


def raw_words(text: str) -> list[str]:
    """All words of a text in order, folded; runs of unspaced scripts as overlapping pairs of letters."""
    lowered = unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(_CLITIC.sub(" ", lowered))
    return words if lowered.isascii() else [part for word in words for part in _parts(word)]


def content_words(text: str) -> list[str]:
    """The words of a text that are indexed and looked for, in order: no stop words, irregular forms at their base."""
    return [IRREGULAR.get(word, word) for word in raw_words(text) if word not in STOP_WORDS]


def terms(question: str) -> tuple[str, ...]:
    """The different content words of a question, at most `MOST_TERMS`."""
    return tuple(dict.fromkeys(content_words(question)))[:MOST_TERMS]


def names(question: str) -> tuple[str, ...]:
    """The words of a question that may be somebody's name, at most `MOST_TERMS`."""
    return tuple(dict.fromkeys(fold(word) for word in raw_words(question)))[:MOST_TERMS]


def match_any(words: Iterable[str]) -> str:
    """An FTS5 expression for rows with any of the words. They hold letters and digits only, so nothing is quoted."""
    return " OR ".join(f'"{word}"' for word in words)


def match_selected(rare: Sequence[str], common: Sequence[str]) -> str:
    """An FTS5 expression for rows with a rare word, or with two of the common ones; empty where no row can be."""
    pairs = [f'("{one}" AND "{other}")' for one, other in combinations(common, 2)]
    return " OR ".join([*([match_any(rare)] if rare else []), *pairs])


def asks_when(question: str) -> bool:
    """Whether a question asks for a time."""
    return _ASKS_WHEN.match(question) is not None


def question_share(text: str) -> float:
    """The share of a text's letters that stand in questions, 0 to 1: a question seldom holds an answer."""
    sentences = _SENTENCE.split(text.strip())
    asked = sum(len(sentence) for sentence in sentences if sentence.endswith("?"))
    return asked / max(1, sum(map(len, sentences)))


def names_a_time(text: str) -> bool:
    """Whether a text names a day or a time in words."""
    return not TIME_WORDS.isdisjoint(raw_words(text))


def date_words(seconds: float) -> str:
    """A moment (seconds since 1970, UTC) in words that questions use: `8 may 2023 monday`."""
    day = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return f"{day.day} {_MONTHS.split()[day.month - 1]} {day.year} {_DAYS.split()[day.weekday()]}"


def _parts(word: str) -> list[str]:
    """A word as it is, or cut where an unspaced script starts or ends, that script in pairs of letters."""
    parts: list[str] = []
    end = 0
    for run in _UNSPACED.finditer(word):
        parts += [word[end : run.start()]] if run.start() > end else []
        letters = run.group()
        parts += [letters[at : at + 2] for at in range(max(1, len(letters) - 1))]
        end = run.end()
    return [*parts, word[end:]] if end < len(word) else parts
