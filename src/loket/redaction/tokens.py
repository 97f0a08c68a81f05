"""Secrets by their form: the tokens of known issuers, private keys, and what stands behind the word `password`.

Every pattern has a bounded length, needs no file around it, and is tried only where a literal of it occurs. That is
what a stream needs and what scanners of repositories do not promise, so the patterns are here; what such a scanner
finds in the same texts is compared in the tests. The forms are those that the issuers publish.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from loket.redaction.found import BARRIER, MARK, UNSPACED
from loket.redaction.shape import long_words

SPAN = 6144
"""Characters of the longest finding (a JSON Web Token with all three parts)."""

KEY_SPAN = 8192
"""Characters of the longest private key."""

_LEFT = r"(?<![A-Za-z0-9])"
_RIGHT = r"(?![A-Za-z0-9])"

Span = tuple[str, int, int]
"""Kind, start and end of a finding."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A form of token, tried `back` characters before one of `literals`; its group `value` is what is secret."""

    kind: str
    literals: tuple[str, ...]
    pattern: re.Pattern[str]
    holds: Callable[[str], bool] | None = None
    back: int = 0


def _rule(kind: str, literals: str, form: str, holds: Callable[[str], bool] | None = None, back: int = 0) -> Rule:
    """A rule whose form is a whole word."""
    return Rule(f"secret.{kind}", tuple(literals.split()), re.compile(f"{_LEFT}(?P<value>{form})"), holds, back)


def _mixed(value: str) -> bool:
    """Whether there are a digit and a letter in it, as in nearly every random text and in few names."""
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))


RULES = (
    _rule("aws", "AKIA ASIA ABIA ACCA A3T", rf"(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{{16}}{_RIGHT}"),
    _rule("github", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,255}"),
    _rule("github", "github_pat_", r"github_pat_[A-Za-z0-9_]{40,255}"),
    _rule(
        "gitlab",
        "glpat- gldt- glrt- gloas- glft- glptt- glagent- glimt- glsoat- glcbt-",
        r"gl(?:pat|dt|rt|oas|ft|ptt|agent|imt|soat|cbt)-[A-Za-z0-9_.-]{20,255}",
    ),
    _rule("gitlab", "GR1348941", r"GR1348941[A-Za-z0-9_-]{20,64}"),
    _rule("slack", "xox", r"xox[abeoprs]-[A-Za-z0-9-]{12,255}", _mixed),
    _rule("slack", "xapp-", r"xapp-[0-9]-[A-Za-z0-9-]{20,255}"),
    _rule("stripe", "sk_live_ sk_test_ rk_live_ rk_test_", r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,255}"),
    _rule("stripe", "whsec_", r"whsec_[A-Za-z0-9+/=]{24,255}"),
    _rule("anthropic", "sk-ant-", r"sk-ant-[A-Za-z0-9_-]{20,255}"),
    _rule("openai", "sk-", r"sk-(?!ant-)[A-Za-z0-9_-]{20,255}", _mixed),
    _rule("google", "AIza", r"AIza[A-Za-z0-9_-]{35}" + _RIGHT),
    _rule("google", "ya29.", r"ya29\.[A-Za-z0-9_-]{20,512}"),
    _rule("google", "GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{28}"),
    _rule("huggingface", "hf_", r"hf_[A-Za-z0-9]{30,64}", _mixed),
    _rule("replicate", "r8_", r"r8_[A-Za-z0-9]{37,64}"),
    _rule("groq", "gsk_", r"gsk_[A-Za-z0-9]{40,64}"),
    _rule("xai", "xai-", r"xai-[A-Za-z0-9]{60,120}"),
    _rule("perplexity", "pplx-", r"pplx-[A-Za-z0-9]{40,64}"),
    _rule("npm", "npm_", r"npm_[A-Za-z0-9]{36,64}"),
    _rule("pypi", "pypi-", r"pypi-[A-Za-z0-9_-]{60,512}"),
    _rule("sendgrid", "SG.", r"SG\.[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{39,50}"),
    _rule("twilio", "AC SK", r"(?:AC|SK)[0-9a-f]{32}" + _RIGHT),
    _rule("mailchimp", "-us", r"[0-9a-f]{32}-us[0-9]{1,2}" + _RIGHT, back=32),
    _rule("mailgun", "key-", r"key-[0-9a-f]{32}" + _RIGHT),
    _rule("square", "sq0", r"sq0(?:csp|atp|idp)-[A-Za-z0-9_\\-]{22,64}"),
    _rule("artifactory", "AKC", r"AKC[A-Za-z0-9]{13,128}" + _RIGHT, _mixed),
    _rule("digitalocean", "dop_v1_ dor_v1_ doo_v1_", r"do[opr]_v1_[0-9a-f]{64}"),
    _rule("shopify", "shp", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    _rule("databricks", "dapi", r"dapi[0-9a-f]{32}(?:-[0-9])?" + _RIGHT),
    _rule("linear", "lin_", r"lin_(?:api|oauth)_[A-Za-z0-9]{32,80}"),
    _rule("notion", "ntn_", r"ntn_[A-Za-z0-9]{40,64}"),
    _rule("figma", "figd_", r"figd_[A-Za-z0-9_-]{36,64}"),
    _rule("doppler", "dp.", r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9._-]{40,80}"),
    _rule("hashicorp", "hvs. hvb. hvr.", r"hv[sbr]\.[A-Za-z0-9_-]{24,300}", _mixed),
    _rule("age", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[0-9A-Z]{58}"),
    _rule("grafana", "glsa_ glc_", r"(?:glsa|glc)_[A-Za-z0-9_+/=]{32,400}"),
    _rule("docker", "dckr_", r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,64}"),
    _rule("atlassian", "ATATT3", r"ATATT3[A-Za-z0-9_=-]{80,300}"),
    _rule("tailscale", "tskey-", r"tskey-[a-z]+-[A-Za-z0-9_-]{16,120}", _mixed),
    _rule("postman", "PMAK-", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}"),
    _rule("newrelic", "NRAK-", r"NRAK-[A-Z0-9]{27}"),
    _rule("planetscale", "pscale_", r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{32,64}"),
    _rule("supabase", "sb_secret_ sbp_", r"(?:sb_secret_|sbp_)[A-Za-z0-9_]{20,64}", _mixed),
    _rule("sentry", "sntry", r"sntry[su]_[A-Za-z0-9+/=_-]{40,400}"),
    _rule("jwt", "eyJ", r"eyJ[A-Za-z0-9_-]{8,800}\.[A-Za-z0-9_-]{8,4000}(?:\.[A-Za-z0-9_-]{0,1200})?"),
    Rule(
        "secret.telegram",
        (":AA",),
        re.compile(r"(?<=[0-9]{8})(?P<value>:AA[A-Za-z0-9_-]{32,33})" + _RIGHT),
    ),
    Rule(
        "secret.discord",
        (".",),
        re.compile(r"(?<=[A-Za-z0-9_-]{23})(?P<value>\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40})" + _RIGHT),
        _mixed,
    ),
)
"""The forms, by issuer, each with a word of 16 signs or more in it."""

LOOSE = (
    _rule("slack", "hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_+-]{20,160}"),
    _rule("npm", "_authToken=", r"_authToken=(?!\$)[A-Za-z0-9_-]{30,255}"),
    _rule("azure", "AccountKey=", r"AccountKey=[A-Za-z0-9+/]{86}(?:==)?"),
    _rule("softlayer", "api.softlayer.com/soap/", r"api\.softlayer\.com/soap/v3(?:\.1)?/[a-z0-9]{64}"),
    Rule(
        "secret.url",
        ("://",),
        re.compile(rf"://[^\s/@:{BARRIER}]{{0,128}}:(?P<value>(?![*<${{])[^\s/@{BARRIER}{UNSPACED}]{{3,256}})@"),
    ),
    Rule(
        "secret.header",
        ("earer ", "asic "),
        re.compile(r"(?<![A-Za-z])[Bb](?:earer|asic) (?P<value>[A-Za-z0-9+/._~=-]{16,1024})"),
        _mixed,
        back=1,
    ),
)
"""What is known by what stands before it."""


_BODY = (
    r"(?:(?:\\{1,4}[nr]|[\s\",'>|])*+(?:"
    r"(?:Proc-Type|DEK-Info|Version|Comment|Hash): [^\r\n\\]{1,120}"
    r"|[A-Za-z0-9+/]{16,}+={0,2}|[A-Za-z0-9+/]{1,64}={1,2}|=[A-Za-z0-9+/]{4}))*+"
)
_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    + _BODY
    + r"(?:(?:\\{1,4}[nr]|[\s\",'>|])*+[A-Za-z0-9+/]{0,15}(?:\\{1,4}[nr]|[\s\",'>|])*+"
    r"-----END (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----)?"
    r"|PuTTY-User-Key-File-[23]: [^\n]{1,80}(?:\n[A-Za-z0-9+/=: .-]{1,80}){0,90}"
)
"""RFC 7468 and its neighbours, also with line ends escaped as in JSON."""


def private_keys(text: str) -> Iterator[Span]:
    """Private keys with their frame; of one without an end, as far as its lines go."""
    if "PRIVATE KEY" in text or "PuTTY-User-Key-File-" in text:
        for match in _KEY.finditer(text):
            yield "secret.key", match.start(), min(match.end(), match.start() + KEY_SPAN)


_WORDS = (
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "api key",
    "access_key",
    "access-key",
    "private_key",
    "auth_key",
    "credential",
)

_NAMES = re.compile("|".join(_WORDS) + "|passcode")
_OTHER_NAMES = re.compile(r"page|cursor|next|sync|count|max|type|hash|ur[il]|id\Z|name\Z")


def names_secret(name: str) -> bool:
    """Whether a member's name says that its value is a secret; `next_page_token` says that it is none."""
    lower = MARK.sub("", name).lower()
    return _NAMES.search(lower) is not None and _OTHER_NAMES.search(lower) is None


_ASSIGNED = re.compile(
    r"[A-Za-z0-9_\-]{0,24}[\"'`\]]{0,2} {0,3}(?::=|=>|[:=]| is )[ ]{0,3}[\"'`]{0,2}"
    rf"(?P<value>[^\s\"'`,;<>(){{}}\[\]|\\{BARRIER}{UNSPACED}]{{8,512}})"
)

_LEAST = 8
"""Characters of the shortest secret that is taken for one by its name alone."""

_BLANK = re.compile(rf"[\s{BARRIER}{UNSPACED}]|\[redacted: ")

_NAME_OF_THING = re.compile(
    r"\$|%|https?:|/|\.|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\Z|[A-Za-z_]+[0-9]{0,2}\Z|[0-9.:,%*x-]+\Z"
)
"""What is rather a variable, a path, a type or a number than a secret."""


def looks_secret(value: str) -> bool:
    """Whether a value that stands under a name such as `password` is one, and not the name of a variable or a type."""
    return len(value) >= _LEAST and not _BLANK.search(value) and _mixed(value) and not _NAME_OF_THING.match(value)


def _assigned(text: str, lower: str) -> Iterator[Span]:
    for word in _WORDS:
        at = lower.find(word)
        while at >= 0:
            match = _ASSIGNED.match(text, at + len(word))
            if match:
                value = match["value"].rstrip(".?:")
                if looks_secret(value):
                    yield "secret.assigned", match.start("value"), match.start("value") + len(value)
            at = lower.find(word, at + 1)


def _ascii_lower(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_LOWER)


_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _places(text: str, rule: Rule) -> Iterator[int]:
    for literal in rule.literals:
        at = text.find(literal)
        while at >= 0:
            yield at
            at = text.find(literal, at + 1)


def _by_rule(text: str, rule: Rule) -> Iterator[Span]:
    for at in _places(text, rule):
        match = rule.pattern.match(text, at - rule.back) if at >= rule.back else None
        if match and (rule.holds is None or rule.holds(match["value"])):
            yield rule.kind, match.start("value"), match.end("value")


def tokens(text: str) -> Iterator[Span]:
    """Tokens of known issuers, credentials in URLs and headers, and values under a name such as `password`."""
    words = long_words(text)
    for rule in RULES if words else ():
        if any(literal in words for literal in rule.literals):
            yield from _by_rule(text, rule)
    for rule in LOOSE:
        yield from _by_rule(text, rule)
    yield from _assigned(text, _ascii_lower(text))
