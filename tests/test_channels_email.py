"""Mail from end to end, between real servers: IMAP by pymap, SMTP by aiosmtpd, the real module and host."""

import asyncio
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_kit import install, prepared, talking, until
from loket.app import Loket
from loket.channels import mailbox
from loket.channels.frames import Mail
from loket.channels.mailbox import compose, read_mail
from loket.contracts import Refusal
from mail_servers import ADDRESS, Mails, mail_servers

pytestmark = pytest.mark.xdist_group("channels-email")


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mails]:
    monkeypatch.setattr(mailbox, "_EVERY_S", 0.2)
    with mail_servers() as made:
        yield made


async def add(system: Loket, sources: Path, mails: Mails) -> None:
    await install(system, sources, "email")
    await system.channels.add("email", "main", mails.fields, mails.places, "email", enabled=True)
    await until(lambda: system.channels.card(system.channels.channel("email"))["health"]["connected"])


def words(mail: EmailMessage) -> str:
    return str(mail.get_content()).strip()


def test_a_mail_is_answered_in_its_thread(tmp_path: Path, mails: Mails) -> None:
    """What was there before is not read; a thread is a conversation; quotes, lists and programs are passed over."""

    async def story() -> None:
        mails.put("before it was switched on", 1)
        async with talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources", mails)
            assert (await system.channels.test("email"))["ok"] is True
            first = mails.put("hello", 2)
            await until(lambda: len(mails.sent) == 1)
            said = mails.sent[0]
            assert (said["To"], said["Subject"], said["In-Reply-To"]) == ("ana@example.org", "Re: A question", first)
            assert said["Auto-Submitted"] == "auto-replied"
            await system.channels.approve(words(said).split()[-1], "sender")
            await until(lambda: len(mails.sent) == 2)
            mails.put("a newsletter", 3, List_Id="<news.example.org>")
            mails.put("I am away", 4, Auto_Submitted="auto-replied")
            mails.put("from myself", 5, sender=ADDRESS)
            text = "good morning\n\nOn Sat, 21 Nov 2026 at 10:00 Loket wrote:\n> old words"
            mails.put(text, 6, subject="Re: A question", In_Reply_To="<x@y>", References=f"{first} <x@y>")
            await until(lambda: len(mails.sent) == 3)
            assert words(mails.sent[2]) == "GOOD MORNING"
            assert str(mails.sent[2]["References"]).split() == [first, "<x@y>", "<m6@example.org>"]
            assert len(system.database.runs("main", 10)) == 1

    asyncio.run(story())


def test_a_no_of_the_mail_server_is_later_or_for_good(tmp_path: Path, mails: Mails) -> None:
    """An answer of 4xx is tried again, one of 5xx is not and stands in the health (RFC 5321, 4.2.1)."""

    async def story() -> None:
        async with talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources", mails)
            mails.answers.append("451 4.3.0 try again")
            mails.put("hello", 1)
            await until(lambda: len(mails.sent) == 1)
            mails.answers.append("550 5.7.1 we do not want it")
            await system.channels.approve(words(mails.sent[0]).split()[-1], "sender")
            counts = await until(lambda: (c := system.channels.store.counts("email"))["failed"] and c)
            assert counts["reason"] == "the mail server says 550: 5.7.1 we do not want it"

    asyncio.run(story())


def test_a_restart_goes_on_where_the_mailbox_was_read_up_to(tmp_path: Path, mails: Mails) -> None:
    """A mail that came while Loket was off is read after the start, and no other one again."""

    async def story() -> None:
        home = prepared(tmp_path / "home")
        async with talking(home) as system:
            await add(system, tmp_path / "sources", mails)
            mails.put("hello", 1)
            await until(lambda: len(mails.sent) == 1)
            await system.channels.approve(words(mails.sent[0]).split()[-1], "sender")
            await until(lambda: system.channels.store.counts("email")["queued"] == 0)
        mails.put("good morning", 2, subject="Re: x")
        async with talking(home) as system:
            await until(lambda: len(mails.sent) == 3)
            assert words(mails.sent[2]) == "GOOD MORNING"
            assert len(system.database.runs("main", 10)) == 1

    asyncio.run(story())


@given(
    data=st.binary(max_size=400), head=st.sampled_from([b"", b"From: =?utf-8?q?x?= <a@b>\r\nContent-Type: text/html"])
)
def test_whatever_a_mail_is_it_can_be_read(data: bytes, head: bytes) -> None:
    """No bytes make the parser fail: what cannot be decoded is replaced or left out."""
    mail = read_mail(head + b"\r\n\r\n" + data)
    assert isinstance(mail["text"], str)
    assert mail["from"].isprintable()


def test_html_becomes_words_and_charsets_are_decoded() -> None:
    """Of two alternatives the plain one is read; else the words of the HTML, without its scripts."""
    mail = EmailMessage(policy.SMTP)
    mail["From"] = "Zoë <zoe@example.org>"
    mail.set_content("<p>Grüße</p><script>x()</script><p>aus K&ouml;ln</p>", subtype="html", charset="iso-8859-1")
    read = read_mail(mail.as_bytes())
    assert (read["name"], read["text"]) == ("Zoë", "Grüße\naus Köln")
    mail.add_alternative("plain", subtype="plain")
    assert read_mail(mail.as_bytes())["text"].strip() == "plain"


def test_no_header_is_smuggled_into_a_mail() -> None:
    """A line break in a subject or an address is refused, not sent."""
    for bad in ({"subject": "x\r\nBcc: eve@example.org"}, {"to": "a@b\nBcc: eve@example.org"}):
        with pytest.raises(Refusal, match="line break"):
            compose(Mail(**{"to": "a@b", "subject": "x", "text": "y", "id": "1", **bad}), ADDRESS)
