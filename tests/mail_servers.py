"""Real mail servers on loopback: pymap for reading (a process of its own), aiosmtpd for sending (a thread)."""

import contextlib
import email
import imaplib
import subprocess
import sys
import time
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller

from live import free_port

USER, PASSWORD = "loket", "correct-horse"
ADDRESS = "loket@example.org"


class Mails:
    """The mailbox that a test writes into, and what was sent. `answers` are SMTP answers for the next mails."""

    def __init__(self, imap_port: int) -> None:
        self.imap_port = imap_port
        self.smtp_port = 0
        self.sent: list[EmailMessage] = []
        self.answers: list[str] = []

    @property
    def places(self) -> list[str]:
        return [f"127.0.0.1:{self.imap_port}", f"127.0.0.1:{self.smtp_port}"]

    @property
    def fields(self) -> dict[str, str]:
        return {
            "address": ADDRESS,
            "user": USER,
            "password": PASSWORD,
            "imap": f"imap://127.0.0.1:{self.imap_port}",
            "smtp": f"smtp://127.0.0.1:{self.smtp_port}",
        }

    def put(self, text: str, number: int, *, sender: str = "Ana <ana@example.org>", **headers: str) -> str:
        """A mail arrives; its id."""
        mail = EmailMessage(policy.SMTP)
        identity = f"<m{number}@example.org>"
        mail["From"], mail["To"], mail["Message-ID"] = sender, ADDRESS, identity
        mail["Subject"] = headers.pop("subject", "A question")
        for name, value in headers.items():
            mail[name.replace("_", "-")] = value
        mail.set_content(text)
        with self._box() as box:
            status, _ = box.append("INBOX", "", imaplib.Time2Internaldate(time.time()), mail.as_bytes())
            assert status == "OK"
        return identity

    @contextlib.contextmanager
    def _box(self) -> Iterator[imaplib.IMAP4]:
        box = imaplib.IMAP4("127.0.0.1", self.imap_port, timeout=30)
        box.login(USER, PASSWORD)
        try:
            yield box
        finally:
            box.logout()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - as aiosmtpd calls it
        if self.answers:
            return self.answers.pop(0)
        mail = email.message_from_bytes(envelope.content, policy=policy.default)
        self.sent.append(mail)
        return "250 OK"


@contextlib.contextmanager
def mail_servers() -> Iterator[Mails]:
    """Both servers, until the context ends."""
    mails = Mails(free_port())
    words = ["--host", "127.0.0.1", "--port", str(mails.imap_port), "--no-tls", "--no-service", "admin"]
    words += ["--no-service", "managesieve", "dict", "--demo-data", "--demo-user", USER, "--demo-password", PASSWORD]
    start = "import sys; from pymap.main import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", start, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    controller = Controller(mails, hostname="127.0.0.1", port=free_port())
    try:
        _until_there(process, mails)
        controller.start()
        mails.smtp_port = controller.port
        yield mails
    finally:
        controller.stop(no_assert=True)
        process.kill()
        process.communicate()


def _until_there(process: "subprocess.Popen[bytes]", mails: Mails) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        with contextlib.suppress(OSError, imaplib.IMAP4.error), mails._box():
            return
        time.sleep(0.1)
    raise AssertionError("the IMAP server did not come up")
