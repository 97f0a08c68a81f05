"""Tests of redaction: what must not leave does not, what may leaves as it was, and a stream is as good as a whole."""

import base64
import html
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from textwrap import wrap
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from detect_secrets import plugins
from detect_secrets.plugins import base
from detect_secrets.plugins.base import RegexBasedDetector
from hypothesis import given, settings
from hypothesis import strategies as st

from loket.contracts import BadInput
from loket.redaction import (
    KINDS,
    READERS,
    Leak,
    Plain,
    Redactor,
    canary,
    kinds_for,
    national,
    personal,
    plain_all,
    regions_of,
    tokens,
)

KEY = b"a key for tests"
AGENTS = ("main", "weather")
VAULT = ('Tr0ub4dor&3 for the "bank"', "zq-7741-Kestrel/plume+Ω", "correct horse battery staple", "hunter22")
REDACTOR = Redactor(vault_values=lambda: VAULT, canary_key=KEY, agents=lambda: AGENTS, regions=("NL", "US", "GB", "DE"))

A40 = "aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA3bC5dE7f"
HEX32 = "0123456789abcdef0123456789abcdef"

POSITIVE = [
    # Secrets: the form of the issuer, with made-up random parts.
    ("secret.aws", "the key is AKIAIOSFODNN7EXAMPLE."),
    ("secret.aws", "ASIA2J4K6L8M0N2P4Q6R"),
    ("secret.github", f"ghp_{A40[:36]}"),
    ("secret.github", f"clone with ghs_{A40[:36]} please"),
    ("secret.github", f"github_pat_{A40}_{A40}"),
    ("secret.gitlab", f"glpat-{A40[:20]}"),
    ("secret.slack", "xoxb-123456789012-123456789012-aB3dE5gH7jK9mN1pQ3rS5tU7"),
    ("secret.slack", f"https://hooks.slack.com/services/T01ABCDEF/B01ABCDEF/{A40[:24]}"),
    ("secret.stripe", f"sk_live_{A40[:24]}"),
    ("secret.stripe", f"rk_test_{A40[:24]}"),
    ("secret.anthropic", f"sk-ant-api03-{A40}"),
    ("secret.openai", f"sk-proj-{A40}"),
    ("secret.openai", f"export X={'sk-' + A40}"),
    ("secret.google", f"AIza{A40[:35]}"),
    ("secret.google", f"ya29.{A40}"),
    ("secret.huggingface", f"hf_{A40[:34]}"),
    ("secret.npm", f"npm_{A40[:36]}"),
    ("secret.pypi", f"pypi-AgEIcHlwaS5vcmc{A40}{A40}"),
    ("secret.sendgrid", f"SG.{A40[:22]}.{A40}abc"),
    ("secret.twilio", f"SK{HEX32}"),
    ("secret.mailchimp", f"{HEX32}-us12"),
    ("secret.telegram", f"bot 123456789:AA{A40[:33]}"),
    ("secret.discord", f"M{A40[:23]}.X9aBcD.{A40[:27]}"),
    ("secret.square", f"sq0csp-{A40}abc"),
    ("secret.azure", f"AccountName=x;AccountKey={(A40 * 3)[:86]}==;"),
    ("secret.digitalocean", f"dop_v1_{HEX32}{HEX32}"),
    ("secret.hashicorp", f"hvs.{A40}"),
    ("secret.groq", f"gsk_{A40}{A40[:12]}"),
    ("secret.docker", f"dckr_pat_{A40[:27]}"),
    ("secret.grafana", f"glsa_{A40[:32]}_0a1b2c3d"),
    ("secret.jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"),
    ("secret.url", "postgres://loket:s3cr3tpw@db.example/x"),
    ("secret.url", "https://ana:correct-horse@example.org/"),
    ("secret.header", f"Authorization: Bearer {A40}"),
    ("secret.header", "authorization: Basic dXNlcjpwYXNzd29yZDEyMw=="),
    ("secret.assigned", "password: hunter2horse"),
    ("secret.assigned", "DB_PASSWORD=Xk29vLmQp"),
    ("secret.assigned", 'aws_secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"'),
    ("secret.assigned", "the wifi password is Zonneschijn2024"),
    ("secret.assigned", "wachtwoord/password: Zonnéschijn2024"),
    ("secret.assigned", '{"api_key": "9f8e7d6c5b4a39281706"}'),
    ("secret.key", f"-----BEGIN PRIVATE KEY-----\n{A40}{A40[:24]}\n{A40}\nabc=\n-----END PRIVATE KEY-----"),
    ("secret.key", f"-----BEGIN RSA PRIVATE KEY-----\\n{A40}\\n{A40[:8]}\\n-----END RSA PRIVATE KEY-----\\n"),
    # Payment cards: numbers that their networks publish for tests.
    ("card", "4111111111111111"),
    ("card", "pay with 4111 1111 1111 1111 today"),
    ("card", "4111-1111-1111-1111"),
    ("card", "5500005555555559"),
    ("card", "2223 0031 2200 3222"),
    ("card", "3782 822463 10005"),
    ("card", "378282246310005"),
    ("card", "6011111111111117"),
    ("card", "3530111333300000"),
    ("card", "30569309025904"),
    ("card", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
    # Bank accounts: the registry's own examples.
    ("iban", "NL91ABNA0417164300"),
    ("iban", "to NL91 ABNA 0417 1643 00 by Friday"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB29NWBK60161331926819"),
    ("iban", "fr1420041010050500013m02606"),
    ("iban", "BE68 5390 0754 7034 BANK"),
    ("iban", "MT84MALT011000012345MTLCAST001S"),
    # Identity numbers.
    ("national-id", "ssn 536-90-4399"),
    ("national-id", "BSN: 111222333"),
    ("national-id", "burgerservicenummer 1112.22.333"),
    ("national-id", "NHS number 943 476 5870"),
    ("national-id", "2 95 10 99 126 111 93"),
    ("national-id", "54362315K"),
    ("national-id", "X-2482300W"),
    ("national-id", "RCCMNL83S18D969H"),
    ("national-id", "PESEL 44051401359"),
    ("national-id", "390.533.447-05"),
    ("national-id", "131052-308T"),
    ("national-id", "880320-0016"),
    ("national-id", "aadhaar 2341 2341 2346"),
    ("national-id", "Steuer-ID 36 574 261 809"),
    ("national-id", "11010519491231002X"),
    # Telephones.
    ("phone", "+31 6 12345678"),
    ("phone", "call +31612345678 now"),
    ("phone", "+44 20 7946 0958"),
    ("phone", "+1 415-555-2671"),
    ("phone", "(415) 555-2671"),
    ("phone", "415-555-2671"),
    ("phone", "020-1234567"),
    ("phone", "tel. 06 12 34 56 78"),
    ("phone", "0612345678"),
    ("phone", "+62 812-3456-7890"),
    # Addresses.
    ("email", "ana@example.org"),
    ("email", "write to ana.de-vries+loket@mail.example.co.uk."),
    ("email", "<a_b%c@x-y.example.com>"),
    ("email", "mailto:info@example.nl"),
    # By value.
    ("vault", 'Tr0ub4dor&3 for the "bank"'),
    ("vault", "CORRECT HORSE battery\nstaple"),
    ("vault", "it is hunter22, really"),
    ("vault", "zq-7741-\u200bKestrel/ plume+Ω"),
    ("canary", canary(KEY, "main")),
    ("canary", f"ref {canary(KEY, 'weather').lower().replace('-', ' ')}"),
]

NEGATIVE = [
    "",
    "An ordinary sentence about the weather in Utrecht.",
    "version 2.31.4-rc.12 and 10.15.7 and v1.22.333.4444",
    "Python 3.11.7 (main, Dec  8 2023, 18:56:57) [GCC 9.4.0]",
    "123e4567-e89b-12d3-a456-426614174000",
    "request 7f3c9a1e-1b2c-4d3e-8f90-a1b2c3d4e5f6 done",
    "commit 2201d3c8f1e2d3c4b5a697887766554433221100",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "md5 d41d8cd98f00b204e9800998ecf8427e",
    "2026-03-14",
    "2026-03-14T15:09:26.535Z",
    "2026-03-14 15:09:26,535 INFO start",
    "14-03-2026 and 14.03.2026 and 3/14/2026",
    "from 2019 to 2026, 2020 2021 2022 2023",
    "order 4000123412341233",
    "order number 100200300",
    "invoice 2026-000123",
    "bill no. 123456789",
    "ticket #12345678",
    "ticket #4155552671",
    "1,234,567.89 euros",
    "EUR 1.234.567,89",
    "€12345678",
    "$4,155,552,671",
    "1 234 567 890 people",
    "12.50, 7.25 and 1199.00",
    "192.168.100.200",
    "10.0.0.1:8080 and 172.16.254.1/24",
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "00:1B:44:11:3A:B7",
    "52.0907374, 5.1214201",
    "3.14159265358979323846",
    "1700000000",
    "1700000000000",
    "timestamp 1700000000123456",
    "1700000000123456789",
    "4111 1111 1111 1112",
    "4111111111111112",
    "0000 0000 0000 0000",
    "NL91ABNA0417164301",
    "DE00 3704 0044 0532 0130 00",
    "GB2312 is a character set",
    "ISBN 978-3-16-148410-0",
    "978-0-306-40615-7",
    "EAN 4006381333931",
    "EAN 8710400311140",
    "BSN: 111222334",
    "number 111222333 of the list",
    "000-12-3456",
    "987654321",
    "54362315A",
    "PESEL 44051401358",
    "390.533.447-06",
    "git@github.com:example/project.git",
    "logo@2x.png",
    "lodash@4.17.21",
    "@decorator and @someone",
    "a @ b and c@d",
    "meet @ 10:30",
    "password: required",
    "password = os.environ.get",
    "token: string",
    "the secret is patience",
    "max_tokens=4096",
    "api_key=$API_KEY and token=${TOKEN}",
    "Bearer of good news",
    "the token economy: 12345678 tokens",
    "sk-learn and sk-circle-fade-dot-container-wide",
    "https://example.org/a/very-long-slug-that-goes-on-and-on",
    "https://example.org:8443/path?x=1&y=2#z",
    "postgres://db.example/name",
    "https://user@example.org/path",
    "ssh://git@example.org:22/x",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "ghp_short and AKIA and AIza and eyJ",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
    "SKU XYZ-900-12345-AB",
    "flight KL1234, gate B12, seat 14C",
    "B6DD7-KPM42-XXQ9T",
    "postcode 3511 AB, Oudegracht 158",
    "ratio 16:9, 1920x1080, 3840x2160",
    "lines 100-200, pages 12-18, 2019-2026",
    "x = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
    "0x7fffffff 0b101010 0o777",
    "1e10 6.02214076e23",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "correct horse and battery",
    "naïve café — «quoted» … 日本語のテキスト 🙂",
]


def _text(text: str) -> str:
    return str(REDACTOR.text(text).value)


def test_the_corpus_is_large_enough() -> None:
    """At least sixty texts to redact and sixty to leave alone."""
    assert len(POSITIVE) >= 60
    assert len(NEGATIVE) >= 60


@pytest.mark.parametrize(("kind", "text"), POSITIVE)
def test_what_must_not_leave_is_found_by_its_kind(kind: str, text: str) -> None:
    """A value of each kind, in its usual ways of writing, is replaced by a mark that names the kind."""
    redacted = REDACTOR.text(text)
    assert [found.kind for found in redacted.found] == [kind]
    assert f"[redacted: {kind}]" in redacted.value
    assert text[redacted.found[0].start : redacted.found[0].end] not in redacted.value


@pytest.mark.parametrize(("kind", "text"), POSITIVE)
def test_a_value_is_found_in_the_middle_of_prose(kind: str, text: str) -> None:
    """Words before and after change nothing."""
    redacted = REDACTOR.text(f"Dear reader, here it is:\n{text}\nand that was all, thank you.")
    assert [found.kind for found in redacted.found] == [kind]
    assert redacted.value.startswith("Dear reader, here it is:\n")
    assert redacted.value.endswith("\nand that was all, thank you.") or kind == "secret.key"


@pytest.mark.parametrize("text", NEGATIVE)
def test_what_may_leave_comes_back_identical(text: str) -> None:
    """Versions, hashes, dates, order numbers, prices and addresses of machines are no secrets."""
    redacted = REDACTOR.text(text)
    assert redacted.found == ()
    assert redacted.value is text


def test_all_negative_texts_together_are_still_harmless() -> None:
    """What stands on neighbouring lines does not add up to something."""
    assert REDACTOR.text("\n".join(NEGATIVE)).found == ()


PIECES = st.one_of(
    st.sampled_from([text for _, text in POSITIVE]),
    st.sampled_from(NEGATIVE),
    st.sampled_from(
        [" ", "\n", "-", ".", ", ", "\u200b", "é", "日", "\\n", "%41", "+", "1234", "ab ", "[redacted: card]"]
    ),
    st.text(max_size=12),
    st.text(alphabet="0123456789 -+.", max_size=30),
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_redacting_again_changes_nothing(text: str) -> None:
    """Redaction is idempotent, also where values touch each other."""
    once = REDACTOR.text(text)
    again = REDACTOR.text(once.value)
    assert again.value == once.value
    assert again.found == ()


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_a_finding_is_where_it_says(text: str) -> None:
    """Findings are in order and apart, and what is between them is the text's own."""
    redacted = REDACTOR.text(text)
    rebuilt, position = "", 0
    for found in redacted.found:
        assert position <= found.start < found.end <= len(text)
        rebuilt += text[position : found.start] + f"[redacted: {found.kind}]"
        position = found.end
    assert rebuilt + text[position:] == redacted.value


def _streamed(text: str, cuts: list[int]) -> tuple[str, Any]:
    stream = REDACTOR.stream()
    places = sorted({min(cut, len(text)) for cut in cuts})
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    return "".join([*map(stream.feed, pieces), stream.end()]), stream


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 400), max_size=12))
def test_a_stream_gives_what_the_whole_gives(text: str, cuts: list[int]) -> None:
    """However a text is cut, its pieces leave as the whole would have: values, findings and canary."""
    whole = REDACTOR.text(text)
    value, stream = _streamed(text, cuts)
    assert value == whole.value
    assert tuple(stream.found) == whole.found
    assert stream.canary == whole.canary


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_a_stream_of_single_characters_gives_what_the_whole_gives(text: str) -> None:
    """The smallest pieces that there are."""
    assert _streamed(text, list(range(len(text))))[0] == _text(text)


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_word_that_is_itself_redacted_still_counts_for_what_follows(cut: int) -> None:
    """What has left as a mark is remembered as it was, in a stream as in a whole."""
    text = f"ghp_{A40[:36]}password: hunter2horse " * 3
    assert _streamed(text, list(range(cut, len(text), 11)))[0] == _text(text)


def test_a_long_text_without_a_word_still_leaves() -> None:
    """A stream holds back a bounded part, also of base64 or digits without an end, and misses nothing in it."""
    noise = base64.b64encode(bytes(range(256)) * 160).decode()
    text = noise + "\n" + VAULT[0] + noise + "1 " * 15_000 + VAULT[1] + noise
    stream, given_out, most = REDACTOR.stream(), "", 0
    for at in range(0, len(text), 97):
        given_out += stream.feed(text[at : at + 97])
        most = max(most, len(stream._buffer))
    assert given_out + stream.end() == _text(text)
    assert [found.kind for found in stream.found] == ["vault", "vault"]
    assert most < 25_000


def test_prose_leaves_a_stream_almost_at_once() -> None:
    """Whoever waits for an answer sees it grow: of prose no more than some words are held back."""
    text = "The weather will be fine tomorrow, and we could meet near the station. " * 40
    stream, out = REDACTOR.stream(), 0
    for at, sign in enumerate(text):
        out += len(stream.feed(sign))
        assert at + 1 - out < 40


CODINGS: dict[str, Callable[[str], str]] = {
    "itself": str,
    "upper case": str.upper,
    "base64": lambda v: base64.b64encode(v.encode()).decode(),
    "base64 after one byte": lambda v: base64.b64encode(b"a" + v.encode()).decode(),
    "base64 after two bytes": lambda v: base64.b64encode(b"ab" + v.encode() + b"cd").decode(),
    "base64 of URLs": lambda v: base64.urlsafe_b64encode(v.encode()).decode().rstrip("="),
    "hexadecimal": lambda v: v.encode().hex(),
    "hexadecimal in large letters": lambda v: v.encode().hex().upper(),
    "hexadecimal with colons": lambda v: v.encode().hex(":"),
    "hexadecimal with blanks": lambda v: v.encode().hex(" "),
    "URL": lambda v: quote(v, safe=""),
    "form": quote_plus,
    "URL, every byte": lambda v: "".join(f"%{byte:02X}" for byte in v.encode()),
    "JSON": lambda v: json.dumps(v)[1:-1],
    "JSON twice": lambda v: json.dumps(json.dumps(v)),
    "JSON, every character": lambda v: "".join(f"\\u{ord(sign):04x}" for sign in v),
    "HTML": html.escape,
    "reversed": lambda v: v[::-1],
    "split by blanks": " ".join,
    "split by lines": lambda v: "\n".join(v[at : at + 5] for at in range(0, len(v), 5)),
    "split by nothing visible": "\u200b".join,
    "wide letters": lambda v: "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in v),
    "base64 in lines": lambda v: "\n".join(wrap(base64.b64encode(v.encode()).decode(), 8)),
}

VALUES = st.text(
    alphabet=st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("Cc", "Cf", "Zs", "Lm", "Sk")),
    min_size=9,
    max_size=200,
).filter(lambda value: not value.isalpha() and "redact" not in value)


@pytest.mark.parametrize("coding", CODINGS)
@settings(max_examples=25, deadline=None)
@given(value=VALUES)
def test_a_value_of_the_vault_never_survives(coding: str, value: str) -> None:
    """A value of the vault is taken out in every form that is listed, and nothing of it but an edge is left."""
    redactor = Redactor({"vault"}, lambda: [value])
    written = CODINGS[coding](value)
    redacted = redactor.text(f"Here: {written} .")
    assert {found.kind for found in redacted.found} == {"vault"}
    assert written not in redacted.value
    left = len(redacted.value.replace("[redacted: vault]", "")) - len("Here:  .")
    assert left <= 8


def test_a_part_of_a_long_value_is_found_too() -> None:
    """A long value does not leave by halves."""
    value = "".join(f"{number * 7919:05x}" for number in range(100))
    assert [one.kind for one in Redactor({"vault"}, lambda: [value]).text(f"see {value[100:300]} end").found] == [
        "vault"
    ]


def test_what_the_owner_named_may_leave() -> None:
    """A value of the present request is not redacted, however it is grouped; another one is."""
    text = "mail ana@example.org or +31 6 12345678 or bob@example.org"
    redacted = REDACTOR.text(text, allowed=["ANA@example.org", "+31612345678"])
    assert redacted.value == "mail ana@example.org or +31 6 12345678 or [redacted: email]"


def test_naming_a_key_of_the_vault_does_not_let_it_leave() -> None:
    """Neither the vault's values nor a canary may leave because somebody typed them."""
    code = canary(KEY, "main")
    redacted = REDACTOR.text(f"{VAULT[0]} {code}", allowed=[VAULT[0], code])
    assert redacted.value == "[redacted: vault] [redacted: canary]"


def test_json_is_redacted_in_values_names_and_numbers() -> None:
    """Every string is looked at, names of members too, and numbers that are cards; the rest stays as it is."""
    value = {
        "to": ["ana@example.org", 3, None, True, 1.5],
        "card": 4111111111111111,
        "bob@example.org": {"a/b": "NL91ABNA0417164300"},
        "carl@example.org": 1,
        "password": "Xk29vLmQp",
        "next_page_token": "Xk29vLmQp",
    }
    redacted = REDACTOR.json(value)
    assert redacted.value == {
        "to": ["[redacted: email]", 3, None, True, 1.5],
        "card": "[redacted: card]",
        "[redacted: email]": {"a/b": "[redacted: iban]"},
        "[redacted: email] (2)": 1,
        "password": "[redacted: secret.assigned]",
        "next_page_token": "Xk29vLmQp",
    }
    assert [(one.kind, one.path) for one in redacted.found] == [
        ("email", "/to/0"),
        ("card", "/card"),
        ("email", "/[redacted: email]"),
        ("iban", "/[redacted: email]/a~1b"),
        ("email", "/[redacted: email]"),
        ("secret.assigned", "/password"),
    ]


def test_json_without_findings_is_the_very_same() -> None:
    """Nothing is copied where nothing is found."""
    value = {"a": [1, {"b": "text"}], "n": 12345678901}
    assert REDACTOR.json(value).value is value


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        TEXTS | st.integers() | st.booleans() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=6,
    )
)
def test_redacted_json_redacted_again_is_unchanged(value: Any) -> None:
    """The same as for texts, for whole values."""
    once = REDACTOR.json(value).value
    assert REDACTOR.json(once).value == once


def test_a_value_nested_too_deeply_is_refused() -> None:
    """What cannot be looked through does not leave."""
    value: Any = "x"
    for _ in range(400):
        value = [value]
    with pytest.raises(BadInput, match="nested deeper"):
        REDACTOR.json(value)


def test_a_canary_names_its_agent_in_every_form() -> None:
    """A canary is reported with its agent, also encoded, in JSON and in a stream."""
    code = canary(KEY, "weather")
    for written in (
        code,
        code.lower(),
        code[::-1],
        base64.b64encode(code.encode()).decode(),
        code.encode().hex(),
        " ".join(code),
    ):
        assert REDACTOR.text(f"see {written}!").canary == "weather"
    assert REDACTOR.json({"a": [code]}).canary == "weather"
    assert _streamed(f"see {code} there", [6, 9])[1].canary == "weather"
    assert REDACTOR.text("nothing").canary is None


def test_canaries_follow_from_key_and_agent_alone() -> None:
    """The same key and agent give the same code; another key or agent another one."""
    assert canary(KEY, "main") == canary(KEY, "main")
    assert len({canary(key, agent) for key in (KEY, b"other") for agent in AGENTS}) == 4


def test_a_leak_says_whose_and_not_what() -> None:
    """The error that stops the agent names the agent and does not repeat the code."""
    leak = Leak("weather")
    assert leak.code == "canary.seen"
    assert "weather" in leak.message
    assert canary(KEY, "weather") not in json.dumps(leak.as_dict())


def test_a_new_value_of_the_vault_counts_at_once() -> None:
    """The vault is asked at each call, not once."""
    values: list[str] = []
    redactor = Redactor({"vault"}, lambda: list(values))
    assert redactor.text("swordfish-9000").value == "swordfish-9000"
    values.append("swordfish-9000")
    assert redactor.text("swordfish-9000").value == "[redacted: vault]"


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_a_kind_that_is_off_is_not_redacted(kind: str) -> None:
    """Each kind can be switched off by itself."""
    redactor = Redactor(set(KINDS) - {kind}, lambda: VAULT, KEY, lambda: AGENTS, ("NL",))
    texts = [text for one, text in POSITIVE if one.partition(".")[0] == kind]
    assert texts
    assert all(kind not in {found.kind.partition(".")[0] for found in redactor.text(text).found} for text in texts)


def test_settings_say_what_is_redacted_for_whom() -> None:
    """A reader that is not named keeps its default; unknown readers, kinds and countries are refused by name."""
    assert kinds_for({"model": ["email"]}) == {**READERS, "model": frozenset({"email"})}
    assert regions_of({"regions": ["NL"]}) == ("NL",)
    for table, words in (
        ({"models": []}, "no setting 'models'"),
        ({"model": ["emails"]}, "no kind of data 'emails'"),
        ({"model": "email"}, "no list of texts"),
    ):
        with pytest.raises(BadInput, match=words):
            kinds_for(table)
    with pytest.raises(BadInput, match="no country's code"):
        regions_of({"regions": ["Netherlands"]})


def _scanners() -> list[RegexBasedDetector]:
    """The detectors of `detect-secrets` that go by a form."""
    modules = [import_module(f"{plugins.__name__}.{one.name}") for one in iter_modules(plugins.__path__)]
    found = [one for module in modules for one in vars(module).values() if isinstance(one, type)]
    return [one() for one in found if issubclass(one, RegexBasedDetector) and one.__module__ != base.__name__]


def test_whatever_a_scanner_of_repositories_finds_is_found() -> None:
    """No secret of the corpus that `detect-secrets` sees is left, and most have a form that it knows."""
    scanners, seen = _scanners(), 0
    for kind, text in POSITIVE:
        theirs = {secret for scanner in scanners for secret in scanner.analyze_string(text) if kind[:6] == "secret"}
        seen += bool(theirs)
        assert not [secret for secret in theirs if secret in _text(text)]
    assert seen >= 20


def test_a_mark_beside_a_secret_hides_nothing() -> None:
    """Marks that a text brings along do not keep what touches them from being seen."""
    assert _text("[redacted: card]AKIAIOSFODNN7EXAMPLE[redacted: card]") == (
        "[redacted: card][redacted: secret.aws][redacted: card]"
    )


def test_importing_redaction_loads_no_library() -> None:
    """Number plans and check digits are loaded when a text first looks like one."""
    code = (
        "import sys, loket.redaction as r; r.Redactor().text('An ordinary text, 2026-03-14, 10.0.0.1, order 12345.');"
        "print(sorted({'phonenumbers', 'stdnum', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Looking quickly whether there is anything


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_looking_for_the_begin_of_any_number_passes_none_over(text: str) -> None:
    """What each form finds by itself, anywhere, is what is found where any form begins."""
    alone = {
        ("national-id", *match.span("value"))
        for number in national.NUMBERS
        for match in number.pattern.finditer(text)
        if national._named(number, text, match.start("value")) and national._valid(number.module, match["value"])
    }
    assert set(national.national_ids(text, (0, len(text)))) == alone


@given(st.text("0123456789", min_size=1, max_size=24))
def test_the_check_of_cards_is_that_of_the_library(digits: str) -> None:
    """Luhn's, of any length."""
    assert personal._luhn(digits) == import_module("stdnum.luhn").is_valid(digits)


@given(st.from_regex(personal._BRANDS, fullmatch=True))
def test_a_card_begins_with_a_digit_that_is_looked_for(digits: str) -> None:
    """No issuer's range is outside what the expression of cards can begin with."""
    assert personal._CARD.search(digits) is not None


SECRET_PARTS = st.sampled_from(
    [
        *("AKIA", "ghp_", "sk-", "SG.", ":AA", ".", "-us", "eyJ", "AC", "key-", "xoxb-", "12345678901234567890"),
        *("abcdef", "0123456789abcdef0123456789abcdef", "A1b2C3d4E5f6G7h8", " ", "-", "_", "é", "12", "x9", "\n"),
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(SECRET_PARTS, max_size=12).map("".join))
def test_leaving_rows_of_numbers_out_passes_no_token_over(text: str) -> None:
    """Every form of a token is found as if each were tried in every text."""
    alone = {span for rule in (*tokens.RULES, *tokens.LOOSE) for span in tokens._by_rule(text, rule)}
    alone |= set(tokens._assigned(text, tokens._ascii_lower(text)))
    assert set(tokens.tokens(text)) == alone


@given(st.lists(st.text(max_size=12), max_size=6))
def test_values_that_may_leave_are_made_plain_once(values: list[str]) -> None:
    """What was made plain is taken as it is, and means what the values mean."""
    plain = plain_all(values)
    assert plain_all(plain) is plain
    assert isinstance(plain, Plain)
    text = " ".join(values)
    assert REDACTOR.text(text, plain) == REDACTOR.text(text, values)
