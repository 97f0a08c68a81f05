"""Parts of channels by themselves: what a manifest may declare, what a translation may answer, whom a wire reaches."""

import asyncio
import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loket.channels.accepting import sender_of
from loket.channels.actions import Decoder, says
from loket.channels.frames import Request
from loket.channels.hooks import check, sign
from loket.channels.settings import Settings, check_fields
from loket.channels.web import Web
from loket.channels.words import split
from loket.contracts import BadInput, ChannelField, ChannelMessage, ChannelSignature, ChannelSpec, Failed, Refusal
from loket.packages.manifest import load_manifest
from loket.packages.manifest_channel import decode_channel
from loket.packages.table import Table
from loket.providers.net_headers import Held
from loket.schemas import compile_check
from loket.store.channels import ANSWERED, Channel, ChannelStore, Fresh, Pairing, Received
from rest_fake import Rest

ROOT = Path(__file__).parents[1]
NAMES = ("discord", "email", "matrix", "slack", "telegram", "webhook")


def decoded(text: str) -> ChannelSpec:
    table = Table("loket.toml", "", tomllib.loads(text))
    return decode_channel(table)


@pytest.mark.parametrize("name", NAMES)
def test_our_channels_ask_for_no_capability(name: str) -> None:
    """Each is sealed and translates: it has the two operations and nothing that it may call."""
    manifest = load_manifest(ROOT / "guests" / "channels" / name)
    assert (manifest.kind, manifest.capabilities) == ("channel", ())
    assert [one.name for one in manifest.operations] == ["inbound", "outbound"]
    assert isinstance(manifest.own, ChannelSpec)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('wire = "smoke"', "has to be one of poll"),
        ('wire = "poll"\nhost = []', "no key that is known"),
        ('wire = "poll"\nhosts = ["https://x"]', "no list of hosts"),
        ('wire = "poll"\nhosts = ["{field:server}"]', "names the field server"),
        ('wire = "webhook"', "anybody could speak through it"),
        ('wire = "mailbox"', "lacks imap, smtp"),
        ('wire = "poll"\n[[field]]\nname = "a"\nlabel = "A"\nsecret = 1', "neither true nor false"),
        ('wire = "poll"\n[[field]]\nname = "a"\nlabel = "A"\nsecret = true\ndefault = "x"', "everybody would know"),
        ('wire = "poll"\n[[field]]\nname = "a"\nlabel = "A"\npattern = "(a+)+b"', "has groups"),
        ('wire = "poll"\n[[field]]\nname = "a"\nlabel = "A"\npattern = "a*a*a*b"', "endless parts"),
        ('wire = "poll"\n[[field]]\nname = "a"\nlabel = "A"\ncolour = "red"', "no key that is known"),
        ('wire = "poll"\n[webhook]\nsignature = { kind = "body", header = "x", secret = "s" }', "the wire is poll"),
    ],
)
def test_a_wrong_declaration_says_what_is_wrong(text: str, said: str) -> None:
    """Unknown keys, hosts that are none, patterns that could run for ever: each is refused with its reason."""
    with pytest.raises(BadInput, match=said):
        decoded(text)


def test_a_channel_that_asks_for_a_capability_is_none(tmp_path: Path) -> None:
    """It relays and does nothing else, so its manifest is refused."""
    text = (ROOT / "guests" / "channels" / "telegram" / "loket.toml").read_text()
    asked = '[[capability]]\nname = "kv.get"\nreason = "remembers"\n'
    (tmp_path / "loket.toml").write_text(f"{text}\n{asked}")
    with pytest.raises(BadInput, match="does nothing else but relay"):
        load_manifest(tmp_path)


DECODER = Decoder(compile_check)


@pytest.mark.parametrize(
    "answer",
    [
        {"message": []},
        {"messages": [{"id": "1", "sender": "a b", "conversation": "c", "text": "t"}]},
        {"messages": [{"id": "1\u2028", "sender": "a", "conversation": "c", "text": "t"}]},
        {"messages": [{"id": "1", "sender": "a", "conversation": "c", "text": "t", "context": {"x": "y" * 5_000}}]},
        {"requests": [{"method": "CONNECT", "url": "https://x"}]},
        {"requests": [{"method": "GET", "url": "https://x", "proxy": "y"}]},
        {"state": {"x": "y" * 70_000}},
        {"beat": {"every_s": 0.1, "frame": "x"}},
        {"timer_s": 0},
    ],
)
def test_what_no_translation_may_answer_is_the_modules_fault(answer: Mapping[str, Any]) -> None:
    """The error names the module, and nothing of the answer is done."""
    with pytest.raises(Failed, match="evil answered what no translation may") as raised:
        DECODER.decode("evil", answer)
    assert raised.value.blame == "module"


def test_a_pattern_says_what_it_means() -> None:
    """A quiet body has no other keys; a done one has at least these; `null` is anything, and has to be there."""
    assert says({"ok": True, "result": []}, {"ok": True, "result": []}, whole=True)
    assert not says({"ok": True, "result": [1]}, {"ok": True, "result": []}, whole=True)
    assert says({"next_batch": "s1"}, {"next_batch": None, "counts": None}, whole=True)
    assert not says({"next_batch": "s1", "rooms": {}}, {"next_batch": None}, whole=True)
    assert says({"id": "1", "more": 2}, {"id": None}, whole=False)
    assert not says({"more": 2}, {"id": None}, whole=False)
    assert not says([], {}, whole=False)


@given(text=st.text(max_size=3_000), longest=st.integers(100, 500))
def test_pieces_are_short_and_lose_no_word(text: str, longest: int) -> None:
    """However a text is cut, no piece is too long, and together they say the same."""
    pieces = split(text, longest)
    assert all(0 < len(piece) <= longest for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


@given(
    secret=st.text("abcdef0123456789", min_size=16, max_size=32),
    body=st.binary(max_size=60),
    other=st.binary(max_size=60),
)
def test_a_signature_is_of_one_body_and_one_secret(secret: str, body: bytes, other: bytes) -> None:
    """What was signed is accepted; another body, another secret and another time are not."""
    for kind, at in (("timestamped", 1_000), ("body", None)):
        signature = ChannelSignature(kind, "x", "secret")
        check(signature, secret, sign(secret, body, at=at), body, 1_000.0)
        wrong = [sign(f"{secret}x", body, at=at), sign(secret, body + b"x", at=at), "", "t=1,v1=zz"]
        for given_ in wrong if other == body else [*wrong, sign(secret, other, at=at)]:
            with pytest.raises(Refusal):
                check(signature, secret, given_, body, 1_000.0)
    with pytest.raises(Refusal):
        check(ChannelSignature("timestamped", "x", "s"), secret, sign(secret, body, at=1_000), body, 1_301.0)


# Whom a wire reaches


def settings(hosts: tuple[str, ...], *private: str, **fields: str) -> Settings:
    declared = tuple(ChannelField(name, name) for name in fields)
    channel = Channel("chat", "chat", "main", fields, private, True, 0.0)
    return Settings(channel, ChannelSpec("poll", hosts, declared, 4_000))


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("https://API.example.org/x", "api.example.org"),
        ("http://127.0.0.1:8008", "127.0.0.1:8008"),
        ("example.org:8448", "example.org:8448"),
        ("imaps://mail.example.org", "mail.example.org:993"),
        ("smtp://mail.example.org", "mail.example.org:587"),
        ("wss://x.example.org:81", "x.example.org:81"),
    ],
)
def test_a_field_stands_for_the_host_that_it_names(value: str, host: str) -> None:
    """Of an address, or of a host as it stands."""
    assert settings(("{field:server}",), server=value).hosts == (host,)


def perform(settings_: Settings, request: Request, **secrets: str) -> Any:
    return asyncio.run(Web().perform(settings_, Held(secrets), request))


def request(url: str, **more: Any) -> Request:
    return Request("POST", url, more.pop("headers", {}), more.pop("body", ""), **more)


def test_a_wire_reaches_declared_hosts_alone() -> None:
    """Another host, an address of this machine that nobody listed, metadata and unknown secrets are refused."""
    wide = settings(("127.0.0.1:1", "169.254.169.254", "*.example.org"), "169.254.169.254:80")
    for url, code in (
        ("https://evil.example.net/", "channel.host"),
        ("http://127.0.0.1:1/", "channel.address"),
        ("http://169.254.169.254/", "channel.address"),
        ("ftp://a.example.org/", "net.url"),
        ("https://user@a.example.org/", "net.url"),
        ("https://{{secret:token}}.example.net/", "channel.host"),
    ):
        with pytest.raises(Refusal) as refused:
            perform(wide, request(url), token="abcdefgh")
        assert refused.value.code == code, url


def test_secrets_are_filled_in_where_they_belong_and_taken_out_of_what_comes_back() -> None:
    """In path, header and body, each escaped as its place wants; an echo is redacted; another channel's is unknown."""
    seen: list[Any] = []

    def answer(_method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any, dict[str, str]]:
        seen.append((path, headers.get("authorization"), body))
        return 200, {"echo": [path, body]}, {"X-Echo": headers.get("authorization", "")}

    rest = Rest(answer)
    with rest.serving():
        near = settings(("{field:api}",), rest.place, api=rest.url)
        asked = request(
            f"{rest.url}/bot{{{{secret:token}}}}/x",
            headers={"Authorization": "Bearer {{secret:token}}"},
            json={"token": "{{secret:token}}"},
        )
        got = perform(near, asked, token='1:a/"b')
        with pytest.raises(Refusal, match="no secret field other"):
            perform(near, request(f"{rest.url}/{{{{secret:other}}}}"), token="abcdefgh")
        with pytest.raises(Refusal, match="not a module's to set"):
            perform(near, request(f"{rest.url}/", headers={"Host": "evil.example.net"}))
    assert seen == [("/bot1:a%2F%22b/x", 'Bearer 1:a/"b', {"token": '1:a/"b'})]
    assert '1:a/"b' not in got.body + str(got.headers) + str(got.json)
    assert "[secret token]" in got.body


def test_what_the_owner_says_is_checked_against_the_fields() -> None:
    """An unknown field, a missing one and a value that does not fit; a secret is not repeated."""
    spec = ChannelSpec("poll", (), (ChannelField("token", "Token", secret=True, pattern="[0-9]+"),), 100)
    check_fields(spec, {"token": "123"}, {})
    check_fields(spec, {}, {"token": "set"})
    for given_, said in (
        ({}, "is missing"),
        ({"tokem": "1"}, "no field tokem"),
        ({"token": "abc"}, "it does not look"),
    ):
        with pytest.raises(BadInput, match=said) as raised:
            check_fields(spec, given_, {})
        assert "abc" not in raised.value.message


# The ledger


def message(number: int, conversation: str = "c") -> ChannelMessage:
    return ChannelMessage(str(number), "ana", conversation, f"text {number}")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = ChannelStore(tmp_path / "channels.db")
    made.add(Channel("chat", "chat", "main", {}, (), True, 0.0))
    yield made
    made.close()


def test_a_message_that_comes_again_is_one(store: ChannelStore) -> None:
    """Its id on the wire is its own for good; the module's state is written with it."""
    assert store.take("chat", [message(1), message(2)], {"after": 2}, 1.0) == 2
    assert store.take("chat", [message(2), message(3)], {"after": 3}, 2.0) == 1
    assert [one.wire for one in store.open_messages("chat", "received")] == ["1", "2", "3"]
    assert store.state("chat") == {"after": 3}
    assert store.take("gone", [message(1)], {}, 1.0) == 0


def test_answers_keep_their_order_within_a_conversation(store: ChannelStore) -> None:
    """Only the first of each conversation is there to be sent; one that waits holds up its own and no other."""
    store.queue(
        "chat", [Fresh("1", "a", "x"), Fresh("2", "a", "y"), Fresh("3", "b", "z"), Fresh("1", "a", "again")], 1.0
    )
    assert [one.text for one in store.heads("chat")] == ["x", "z"]
    store.again(store.heads("chat")[0].id, 9.0, "later", counted=True)
    assert [(one.text, one.next, one.attempts) for one in store.heads("chat")] == [("x", 9.0, 1), ("z", 1.0, 0)]
    store.finish(store.heads("chat")[0].id, "delivered", 2.0)
    assert [one.text for one in store.heads("chat")] == ["y", "z"]


def test_texts_are_forgotten_once_they_are_not_needed(store: ChannelStore) -> None:
    """A message's when a run has it, an answer's when it has arrived."""
    store.take("chat", [message(1)], None, 1.0)
    (one,) = store.open_messages("chat", "received")
    store.accepted(one.id, "run1")
    store.ended(one.id, ANSWERED, 2.0, [Fresh("re:1", "c", "answer")])
    (out,) = store.heads("chat")
    store.finish(out.id, "delivered", 3.0)
    kept = store._query("SELECT text FROM message UNION ALL SELECT text FROM outbound")
    assert kept == [(None,), (None,)]


@given(speaks=st.sampled_from(["sender", "owner", "user:ana"]), text=st.text(min_size=1, max_size=50))
def test_only_the_owners_words_are_the_owners(speaks: str, text: str) -> None:
    """Whatever a sender says: words and the label `owner` come with the owner's pairing alone."""
    base = Received(1, "chat", "1", "eve", "Eve", "c", text, {}, True, "received", None, 0.0, None)
    sender = sender_of(base, Pairing("chat", "eve", "Eve", speaks, "c", {}, 0.0), "main")
    assert (sender.words == text) == (speaks == "owner")
    assert ("owner" in sender.labels) == (speaks == "owner")
    assert (str(sender.principal) == "sender:chat:eve") == (speaks == "sender")
    assert ("sender:chat:eve" in sender.labels) == (speaks != "owner")
    assert dataclasses.asdict(sender)["arguments"]["sender"] == "eve"
