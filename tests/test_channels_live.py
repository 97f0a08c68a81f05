"""Channels by command and over HTTP: a real server, the real telegram module, and the fake of its service."""

import hashlib
import hmac
import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from channel_kit import built_channel
from guests_fixture import ROOT
from live import Server, loket, prepare, serving
from telegram_fake import TOKEN, Telegram, telegram

SECRET = "0123456789abcdef0123456789abcdef"

pytestmark = pytest.mark.xdist_group("channels-telegram")


@pytest.fixture(scope="module")
def service() -> Iterator[Telegram]:
    with telegram() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(prepare(tmp_path_factory.mktemp("channels") / "home")) as made:
        yield made


def install(server: Server, folder: Path, name: str) -> str:
    shutil.copytree(ROOT / "guests" / "channels" / name, folder / name)
    shutil.copy(built_channel(name), folder / name / "module.wasm")
    return str(loket(server.home, "install", str(folder / name), "--yes"))


def test_a_channel_from_install_to_removal_by_command(server: Server, service: Telegram, tmp_path: Path) -> None:
    """Each command in its turn; the token is read from the standard input and shown by none of them."""
    install(server, tmp_path, "telegram")
    words = ["--set", "token=-", "--set", f"api={service.url}", "--private", service.place]
    made = loket(server.home, "channels", "add", "telegram", "--agent", "main", *words, "--json", stdin=f"{TOKEN}\n")
    assert (made["enabled"], made["hosts"]) == (True, [service.place])
    assert "works" in loket(server.home, "channels", "test", "telegram")
    service.write("hello")
    code = service.until(1)[0].split()[-1]
    assert code in loket(server.home, "channels", "codes")
    assert "42 on telegram speaks as owner now" in loket(server.home, "channels", "approve", code, "--as", "owner")
    service.write("/remember the bins go out on Friday")
    assert "Remembered" in service.until(3)[2]
    assert "owner" in loket(server.home, "channels", "pairings", "telegram")
    shown = loket(server.home, "channels", "show", "telegram")
    assert "connected" in shown
    assert TOKEN not in shown + loket(server.home, "channels", "list") + json.dumps(made)
    assert loket(server.home, "channels", "disable", "telegram", "--json")["health"]["state"] == "off"
    assert loket(server.home, "channels", "enable", "telegram", "--json")["enabled"] is True
    assert loket(server.home, "channels", "set", "telegram", "--agent", "main", "--json")["agent"] == "main"
    loket(server.home, "channels", "unpair", "telegram", "42")
    assert "2 secrets" not in loket(server.home, "channels", "remove", "telegram", "--yes")
    assert loket(server.home, "vault", "list", "--json")["secrets"] == []
    assert "there is no channel" in loket(server.home, "channels", "show", "telegram", code=2)


def test_a_webhook_over_http(server: Server, tmp_path: Path) -> None:
    """Signed requests come in at `/channels/NAME` without a token of the server; others are refused."""
    install(server, tmp_path, "webhook")
    fields = {"secret": SECRET}
    status, said = server.request(
        "/v1/channels", {"module": "webhook", "agent": "main", "fields": fields}, Content_Type="application/json"
    )
    assert status == 200, said
    assert SECRET not in said
    body = json.dumps({"id": "1", "sender": "robot", "text": "/remember milk", "conversation": "c"}).encode()
    first = post(server, body)
    assert "loket channels approve" in first
    code = json.loads(server.request("/v1/channel-codes")[1])["codes"][0]["code"]
    status, said = server.request("/v1/channel-codes", {"code": code}, Content_Type="application/json")
    assert (status, json.loads(said)["speaks"]) == (200, "sender")
    assert "text" in json.loads(post(server, body.replace(b'"1"', b'"2"')))
    with pytest.raises(urllib.error.HTTPError, match=r"40[13]"):
        post(server, body, secret="another-secret-another")


def post(server: Server, body: bytes, secret: str = SECRET) -> str:
    at = int(time.time())
    signed = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    headers = {"Loket-Signature": f"t={at},v1={signed}", "Content-Type": "application/json"}
    asked = urllib.request.Request(f"http://127.0.0.1:{server.port}/channels/webhook", body, headers)
    with urllib.request.urlopen(asked, timeout=90) as answer:  # noqa: S310 - loopback
        return str(answer.read().decode())
