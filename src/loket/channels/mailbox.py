"""The wire `mailbox`: new mails of an IMAP server in, mails through an SMTP server out, by the standard library.

Its clients wait, so each works on a thread. The mailbox is looked at again and again on one connection, and read
without marking anything as read: where it was read up to is kept with the ledger. What came before the channel was
switched on first is not read. Mails of programs (RFC 3834) and from the mailbox's own address are passed over, so that
two of them do not answer each other for ever.

Whom a mail is from is what it says: neither SPF nor DKIM is looked at, so anybody can write in somebody's name.
"""

import asyncio
import contextlib
import email
import imaplib
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from email import policy
from email.message import EmailMessage
from email.utils import formatdate, getaddresses, parseaddr
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

from loket.channels.actions import LONGEST_TEXT
from loket.channels.frames import Mail
from loket.channels.link import WIRE, Link, checked
from loket.contracts import BadInput, Failed, Json, LoketError, Refusal
from loket.providers.net_url import Target

_EVERY_S = 15.0
_TIMEOUT_S = 30.0
_LARGEST = 4 << 20
"""Bytes of a mail; of a larger one only the head is read."""
_MOST_AT_ONCE = 50
_TRIED = 3
"""Times that a mail is translated before it is passed over."""
_PORTS = {"imaps": 993, "imap": 143, "smtps": 465, "smtp": 587}
_UID = re.compile(rb"UID (\d+)")
_SIZE = re.compile(rb"RFC822\.SIZE (\d+)")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a mail server is: an address that was checked, the name that its certificate is for, and whether by TLS."""

    scheme: str
    address: str
    target: Target
    tls: ssl.SSLContext | None


async def server(link: Link, field: str) -> Server:
    """The server of a field: `imaps://HOST`, `smtps://HOST`, or `smtp://HOST` (STARTTLS).

    Without TLS only at a place that the owner listed as private. Raises `BadInput`, `Refusal` and `Failed`.
    """
    url = link.settings.fields.get(field, "")
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or not parts.scheme.startswith(field):
        raise BadInput("channel.field", f"{field} is {url!r}", f"{field}s://mail.example.org")
    port = parts.port or _PORTS[parts.scheme]
    target, addresses = await link.web.places(link.settings, f"https://{parts.hostname}:{port}", secret=True)
    plain = parts.scheme == "imap" or (parts.scheme == "smtp" and target.place in link.settings.channel.private)
    if plain and target.place not in link.settings.channel.private:
        raise Refusal("channel.plain", f"a password would go to {target.host} unencrypted", f"{field}s://{target.host}")
    return Server(parts.scheme, addresses[0], target, None if plain else await link.web.tls())


# In


async def mailbox(link: Link) -> None:
    """Look for new mails until something is wrong. Raises `LoketError`."""
    where = await server(link, "imap")
    box = _Box(where)
    try:
        await asyncio.to_thread(box.open, link.settings.fields["user"], link.secret("password"))
        while True:
            await _read(link, box)
            link.health.good(link.system.now())
            await link.sleep(_EVERY_S)
    finally:
        await asyncio.to_thread(box.close)


async def _read(link: Link, box: "_Box") -> None:
    """Translate what is new; where it was read up to is written with what came of it."""
    place = (await asyncio.to_thread(link.store.state, link.name)).get(WIRE, {})
    validity, following = await asyncio.to_thread(box.look)
    if place.get("validity") != validity:
        place = {"validity": validity, "uid": following - 1}
        await asyncio.to_thread(_keep, link, place)
    for uid in await asyncio.to_thread(box.after, place["uid"]):
        data = await asyncio.to_thread(box.fetch, uid)
        if data is not None:
            await _one(link, uid, read_mail(data), validity)


def _keep(link: Link, place: Mapping[str, Json]) -> None:
    state = link.store.state(link.name)
    link.store.take(link.name, (), {**state, WIRE: dict(place)}, link.system.now())


async def _one(link: Link, uid: int, mail: Mapping[str, Json], validity: int) -> None:
    place = {"validity": validity, "uid": uid}
    own = link.settings.fields.get("address", "").lower()
    if mail["automatic"] or not mail["from"] or mail["from"] == own:
        await asyncio.to_thread(_keep, link, place)
        return
    for attempt in range(1, _TRIED + 1):
        try:
            checked(await link.inbound("mail", place=place, mail=dict(mail)))
        except LoketError as error:
            if attempt == _TRIED or error.blame != "module":
                link.health.bad(error, link.system.now())
            if error.blame != "module":
                raise
        else:
            return
    await asyncio.to_thread(_keep, link, place)


class _Box:
    """An IMAP connection with the inbox open for reading; each method waits. Raises `Failed`."""

    def __init__(self, where: Server) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._imap: _Imap | None = None
        self._closed = False

    def open(self, user: str, password: str) -> None:
        """Connect and log in."""
        with self._lock:
            try:
                if not self._closed:
                    self._imap = _Imap(self._where)
                    self._imap.login(user, password)
                    self._imap.select("INBOX", readonly=True)
            except OSError as error:
                raise _unreachable(self._where, error) from None
            except imaplib.IMAP4.error as error:
                said = f"the IMAP server says no: {_said(error)}"
                raise Failed("mail.login", said, "look at user and password") from None

    def look(self) -> tuple[int, int]:
        """The inbox's UIDVALIDITY and the UID that its next mail gets (RFC 3501, 2.3.1.1)."""
        self._ask("noop")
        answer = self._ask("status", "INBOX", "(UIDVALIDITY UIDNEXT)")
        numbers = dict(re.findall(rb"(UIDVALIDITY|UIDNEXT) (\d+)", answer[0] or b""))
        return int(numbers[b"UIDVALIDITY"]), int(numbers[b"UIDNEXT"])

    def after(self, uid: int) -> list[int]:
        """The UIDs above one, lowest first, so many at the most."""
        answer = self._ask("uid", "SEARCH", f"UID {uid + 1}:*")
        return sorted(n for n in map(int, (answer[0] or b"").split()) if n > uid)[:_MOST_AT_ONCE]

    def fetch(self, uid: int) -> bytes | None:
        """A mail as it is; of a large one the head; None where it is gone."""
        known = self._ask("uid", "FETCH", str(uid), "(RFC822.SIZE)")
        size = next((int(found[1]) for one in known if isinstance(one, bytes) and (found := _SIZE.search(one))), 0)
        part = "BODY.PEEK[]" if size <= _LARGEST else "BODY.PEEK[HEADER]"
        answer = self._ask("uid", "FETCH", str(uid), f"({part})")
        return next((one[1] for one in answer if isinstance(one, tuple)), None)

    def close(self) -> None:
        """Say good-bye; whoever is asking meanwhile is cut off, so that nobody waits for a silent server."""
        self._closed = True
        polite = self._lock.acquire(blocking=False)
        if not polite:
            self._cut()
            self._lock.acquire()
        try:
            if self._imap is not None and polite:
                self._imap.logout()
        except (imaplib.IMAP4.error, OSError):
            polite = False
        finally:
            if self._imap is not None and not polite:
                self._imap.shutdown()
            self._lock.release()

    def _cut(self) -> None:
        found = getattr(self._imap, "sock", None)
        if found is not None:
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)

    def _ask(self, command: str, *words: str) -> list[Any]:
        try:
            with self._lock:
                if self._closed:
                    raise OSError(command)  # noqa: TRY301 - said as every broken connection is
                status, answer = getattr(self._imap, command)(*words)
        except (imaplib.IMAP4.error, OSError) as error:
            raise Failed(
                "mail.broken", f"the IMAP server broke off ({type(error).__name__})", "it is tried again"
            ) from None
        if status != "OK":
            raise Failed("mail.refused", f"the IMAP server says {status} to {command}", "it is tried again")
        return list(answer)


class _Imap(imaplib.IMAP4):
    """A client that connects to an address that was checked, in the name of its host."""

    def __init__(self, where: Server) -> None:
        self._where = where
        super().__init__(where.target.host, where.target.port, timeout=_TIMEOUT_S)

    def _create_socket(self, timeout: float | None) -> object:  # the hook that imaplib's own TLS client uses
        made = socket.create_connection((self._where.address, self._where.target.port), timeout)
        tls = self._where.tls
        return made if tls is None else tls.wrap_socket(made, server_hostname=self._where.target.host)


def _unreachable(where: Server, error: Exception) -> Failed:
    return Failed(
        "mail.unreachable", f"{where.target.place} cannot be reached ({type(error).__name__})", "it is tried again"
    )


def _said(error: Exception) -> str:
    text = str(error)
    return "".join(sign for sign in text if sign.isprintable())[:200]


def read_mail(data: bytes) -> dict[str, Json]:
    """A mail as a module gets it: `id`, `from`, `name`, `to`, `subject`, `date`, `in_reply_to`, `references`, `text`.

    `automatic`: a program or a list sent it (RFC 3834, RFC 2919). Bounded; what cannot be decoded is replaced.
    """
    mail = email.message_from_bytes(data, policy=policy.default)
    name, address = parseaddr(_header(mail, "from"))
    return {
        "id": _header(mail, "message-id")[:250],
        "from": address.lower()[:200],
        "name": name[:200],
        "to": [one.lower() for _, one in getaddresses([_header(mail, "to"), _header(mail, "cc")]) if one][:50],
        "subject": _header(mail, "subject")[:500],
        "date": _header(mail, "date")[:100],
        "in_reply_to": _header(mail, "in-reply-to")[:250],
        "references": [one[:250] for one in _header(mail, "references").split()][-50:],
        "text": _text(mail)[:LONGEST_TEXT],
        "automatic": _automatic(mail),
    }


def _header(mail: EmailMessage, name: str) -> str:
    try:
        value = str(mail.get(name, ""))
    except (ValueError, IndexError, AttributeError):  # what the parser of some headers raises for what is none
        return ""
    return "".join(sign if sign.isprintable() else " " for sign in value).strip()


def _automatic(mail: EmailMessage) -> bool:
    said = _header(mail, "auto-submitted").lower()
    bulk = _header(mail, "precedence").lower() in ("bulk", "list", "junk")
    return (said not in ("", "no")) or bulk or bool(_header(mail, "list-id"))


def _text(mail: EmailMessage) -> str:
    try:
        part = mail.get_body(("plain", "html"))
        text = part.get_content() if part is not None else ""
    except (LookupError, ValueError, KeyError, AttributeError):  # a charset that nobody knows, a part that is none
        return ""
    if not isinstance(text, str):
        return ""
    return _plain(text) if part is not None and part.get_content_subtype() == "html" else text


class _Words(HTMLParser):
    """Takes the words out of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - as the parser calls it
        self._hidden += tag in ("script", "style", "head")
        self.words.append("\n" if tag in ("br", "p", "div", "tr", "li") else "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style", "head") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def _plain(html: str) -> str:
    parser = _Words()
    parser.feed(html)
    return re.sub(r"\n\s*\n+", "\n\n", "".join(parser.words)).strip()


# Out


async def send_mail(link: Link, mail: Mail) -> None:
    """Send a mail. Raises `Refusal` where it can never arrive, `Failed` where it may later."""
    where = await server(link, "smtp")
    fields = link.settings.fields
    message = compose(mail, fields["address"])
    await asyncio.to_thread(_send, where, (fields["user"], link.secret("password")), message)


def compose(mail: Mail, sender: str) -> EmailMessage:
    """The mail as it is sent. Raises `Refusal` for a header that none can be."""
    message = EmailMessage(policy.SMTP)
    domain = sender.rpartition("@")[2]
    try:
        message["From"], message["To"], message["Subject"] = sender, mail.to, mail.subject
        message["Date"] = formatdate(usegmt=True)
        message["Message-ID"] = f"<{mail.id}@{domain}>"
        message["Auto-Submitted"] = "auto-replied"
        if mail.in_reply_to:
            message["In-Reply-To"] = mail.in_reply_to
            message["References"] = " ".join((*mail.references, mail.in_reply_to))
    except ValueError:
        raise Refusal("mail.header", "the mail has a header with a line break", "mend the module") from None
    message.set_content(mail.text)
    return message


def _send(where: Server, login: tuple[str, str], message: EmailMessage) -> None:
    try:
        with _smtp(where) as smtp:
            _let_in(smtp, where, login)
            smtp.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        code, why = next(iter(error.recipients.values()))
        raise _refused(code, why.decode(errors="replace")) from None
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        raise _refused(error.smtp_code, said) from None
    except (smtplib.SMTPException, OSError) as error:
        raise _unreachable(where, OSError(type(error).__name__)) from None


def _smtp(where: Server) -> smtplib.SMTP:
    port, host = where.target.port, where.target.host
    kind = _Smtps if where.scheme == "smtps" and where.tls is not None else _Smtp
    client = kind(where)
    client._host = host  # type: ignore[attr-defined]  # noqa: SLF001 - whom `starttls` verifies
    code, said = client.connect(where.address, port)
    if code != 220:  # noqa: PLR2004 - RFC 5321, 4.2
        client.close()
        raise smtplib.SMTPConnectError(code, said)
    client.ehlo_or_helo_if_needed()
    return client


class _Smtp(smtplib.SMTP):
    def __init__(self, where: Server) -> None:
        self._where = where
        super().__init__(timeout=_TIMEOUT_S)


class _Smtps(_Smtp):
    def _get_socket(self, host: str, port: int, timeout: float) -> object:
        made = super()._get_socket(host, port, timeout)  # type: ignore[misc]
        tls = self._where.tls
        return tls.wrap_socket(made, server_hostname=self._where.target.host) if tls is not None else made


def _refused(code: int, said: str) -> Refusal | Failed:
    """5 is for good, 4 is not (RFC 5321, 4.2.1)."""
    shown = "".join(sign for sign in said if sign.isprintable())[:200]
    if code >= 500:  # noqa: PLR2004 - see above
        return Refusal("mail.refused", f"the mail server says {code}: {shown}", "look at the address")
    return Failed("mail.later", f"the mail server says {code}: {shown}", "it is tried again")


async def probe(link: Link) -> str:
    """Log in to both servers. Raises what is wrong."""
    fields = link.settings.fields
    login = fields["user"], link.secret("password")
    box = _Box(await server(link, "imap"))
    try:
        await asyncio.to_thread(box.open, *login)
    finally:
        await asyncio.to_thread(box.close)
    await asyncio.to_thread(_try_smtp, await server(link, "smtp"), login)
    return "both servers let it in"


def _try_smtp(where: Server, login: tuple[str, str]) -> None:
    try:
        with _smtp(where) as smtp:
            _let_in(smtp, where, login)
    except smtplib.SMTPResponseException as error:
        raise _refused(error.smtp_code, str(error.smtp_error)) from None
    except (smtplib.SMTPException, OSError) as error:
        raise _unreachable(where, OSError(type(error).__name__)) from None


def _let_in(smtp: smtplib.SMTP, where: Server, login: tuple[str, str]) -> None:
    if where.scheme == "smtp" and where.tls is not None:
        smtp.starttls(context=where.tls)
        smtp.ehlo()
    if smtp.has_extn("auth") or where.tls is not None:
        smtp.login(*login)
