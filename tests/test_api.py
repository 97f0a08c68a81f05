"""The HTTP API over real connections to a real `loket up`: who is let in, and that answers fit their description."""

import asyncio
import contextlib
import http.client
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from live import Server, loket, prepare, serving
from loket.gateway import protocol, sse
from loket.gateway.accounts import Accounts
from loket.gateway.endpoint import Api
from loket.gateway.http import Gateway, make_server
from loket.gateway.passwords import Passwords
from loket.gateway.routes import ROUTES
from loket.gateway.sessions import Sessions, Tokens
from loket.gateway.sse import MOST_BYTES, Mailbox
from loket.schemas import compile_check
from loket.store.accounts import Accounts as Database
from loket.testing.model_server import ModelServer, Reply, Request

PASSWORD = "correct horse"
SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def answer(request: Request) -> Reply:
    slow = "slow" in request.body["messages"][-1]["content"]
    return Reply("Paris is the capital.", latency_s=2.0 if slow else 0.0)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


@dataclass
class Client:
    """A browser or a program in front of one server."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        given = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if data is not None and "Content-Type" not in given:
            given["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, data, given)
            got = connection.getresponse()
            return Answer(got.status, {n.lower(): v for n, v in got.getheaders()}, got.read())

    def session(self) -> "Client":
        """The same, logged in, on a page of the server's own."""
        got = self("POST", "/v1/session", {"name": "ana", "password": PASSWORD})
        assert got.status == 201, got.body
        cookie = got.headers["set-cookie"].partition(";")[0]
        return Client(self.port, {"Cookie": cookie, "Origin": self.origin})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ModelServer(answer) as model:
        home = prepare(tmp_path_factory.mktemp("api") / "home", model.url)
        with serving(home) as server:
            loket(home, "account", "create", "ana", stdin=PASSWORD)
            yield server


@pytest.fixture(scope="module")
def anybody(server: Server) -> Client:
    return Client(server.port)


@pytest.fixture(scope="module")
def owner(anybody: Client) -> Client:
    return anybody.session()


@pytest.fixture(scope="module")
def program(server: Server) -> Client:
    made = loket(server.home, "token", "create", "program", "--json")
    return Client(server.port, {"Authorization": f"Bearer {made['secret']}"})


@pytest.fixture(scope="module")
def document(anybody: Client) -> Any:
    return anybody("GET", "/openapi.json").json


def events(text: bytes) -> list[tuple[int | None, str, Any]]:
    """Number, type and data of each event of a stream."""
    found = []
    for block in text.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((int(fields["id"]) if "id" in fields else None, fields["event"], json.loads(fields["data"])))
    return found


def ask(client: Client, text: str = "capital?", **more: str) -> str:
    """A message that has been answered; its run."""
    got = client("POST", "/v1/agents/main/messages", {"text": text, **more}, Accept="text/event-stream")
    (*_, (_number, kind, data)) = events(got.body)
    assert kind == "end"
    return str(data["run"])


# The description


def test_the_description_is_valid_openapi(document: Any) -> None:
    """OpenAPI 3.1, checked by its own validator."""
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1")


def test_the_description_is_the_table(document: Any) -> None:
    """Every route with summary, schemas and security; operation ids are unique; a route that is open says so."""
    described = {(path, method.upper()): op for path, ops in document["paths"].items() for method, op in ops.items()}
    assert described.keys() == {(route.path, route.method) for route in ROUTES}
    assert len({op["operationId"] for op in described.values()}) == len(ROUTES)
    for (path, _method), op in described.items():
        assert op["summary"]
        assert {p["name"] for p in op["parameters"] if p["in"] == "path"} == set(re.findall(r"\{(\w+)\}", path))
        assert all("schema" in parameter for parameter in op["parameters"])
        assert any(status.startswith("2") for status in op["responses"])
    opened = {op["operationId"] for op in described.values() if not op["security"]}
    signed = {"takeHook", "takeChannelRequest"}  # open to whoever has the secret that signs
    assert opened == {"health", "describe", "setUp", "logIn", *signed}


def test_every_answer_fits_its_description(owner: Client, program: Client, document: Any) -> None:
    """Each route is asked for what it gives, and for what it does not; the body fits the schema of its status."""
    run = ask(program)
    done = {"agent": "main", "capability": "kv.get"}
    made = owner("POST", "/v1/tokens", {"name": "short", "days": 1})
    asked: list[tuple[Client, str, str, str, Any, int]] = [
        (program, "GET", "/healthz", "/healthz", None, 200),
        (program, "GET", "/openapi.json", "/openapi.json", None, 200),
        (program, "GET", "/v1/status", "/v1/status", None, 200),
        (program, "GET", "/v1/agents", "/v1/agents", None, 200),
        (program, "GET", "/v1/agents/{agent}", "/v1/agents/main", None, 200),
        (program, "GET", "/v1/agents/{agent}", "/v1/agents/nobody", None, 404),
        (program, "GET", "/v1/capabilities", "/v1/capabilities", None, 200),
        (program, "GET", "/v1/capabilities/{id}", "/v1/capabilities/brain.search", None, 200),
        (program, "GET", "/v1/capabilities/{id}", "/v1/capabilities/brain.nothing", None, 404),
        (program, "GET", "/v1/runs", "/v1/runs?agent=main&status=done&limit=5", None, 200),
        (program, "GET", "/v1/runs", "/v1/runs?limit=0", None, 400),
        (program, "GET", "/v1/runs", "/v1/runs?status=odd", None, 400),
        (program, "GET", "/v1/runs", "/v1/runs?before=zzzz", None, 404),
        (program, "GET", "/v1/runs/{run}", f"/v1/runs/{run}", None, 200),
        (program, "GET", "/v1/runs/{run}", "/v1/runs/zzzz", None, 404),
        (program, "POST", "/v1/runs/{run}/verify", f"/v1/runs/{run}/verify", None, 200),
        (program, "POST", "/v1/runs/{run}/stop", f"/v1/runs/{run}/stop", None, 409),
        (program, "POST", "/v1/runs/{run}/stop", "/v1/runs/zzzz/stop", None, 404),
        (program, "GET", "/v1/runs/{run}/events", "/v1/runs/zzzz/events", None, 404),
        (program, "GET", "/v1/grants", "/v1/grants?agent=main", None, 200),
        (owner, "POST", "/v1/grants", "/v1/grants", done, 200),
        (owner, "POST", "/v1/grants", "/v1/grants", {"agent": "main", "capability": "no.such"}, 404),
        (owner, "POST", "/v1/grants", "/v1/grants", {"agent": "main"}, 400),
        (owner, "DELETE", "/v1/grants/{agent}/{capability}", "/v1/grants/main/kv.get", None, 200),
        (owner, "DELETE", "/v1/grants/{agent}/{capability}", "/v1/grants/main/kv.get", None, 404),
        (program, "GET", "/v1/agents/{agent}/memories", "/v1/agents/main/memories?query=capital&limit=3", None, 200),
        (program, "GET", "/v1/agents/{agent}/memories", "/v1/agents/main/memories", None, 200),
        (program, "POST", "/v1/agents/{agent}/messages", "/v1/agents/main/messages", {"text": "hello"}, 202),
        (program, "POST", "/v1/agents/{agent}/messages", "/v1/agents/main/messages", {"text": "  "}, 400),
        (program, "POST", "/v1/agents/{agent}/messages", "/v1/agents/nobody/messages", {"text": "hello"}, 404),
        (owner, "GET", "/v1/session", "/v1/session", None, 200),
        (owner, "GET", "/v1/tokens", "/v1/tokens", None, 200),
        (owner, "POST", "/v1/tokens", "/v1/tokens", {"name": "short"}, 409),
        (owner, "DELETE", "/v1/tokens/{id}", f"/v1/tokens/{made.json['id']}", None, 204),
        (owner, "DELETE", "/v1/tokens/{id}", f"/v1/tokens/{made.json['id']}", None, 404),
        (owner, "POST", "/v1/setup", "/v1/setup", {"code": "x", "name": "eve", "password": PASSWORD}, 409),
    ]
    for client, method, path, url, body, status in asked:
        got = client(method, url, body)
        assert got.status == status, (method, url, got.status, got.body)
        _check_fits(document, path, method, got)
    assert made.status == 201
    _check_fits(document, "/v1/tokens", "POST", made)


def _check_fits(document: Any, path: str, method: str, got: Answer) -> None:
    described = document["paths"][path][method.lower()]["responses"][str(got.status)]
    if "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rpartition("/")[2]]
    if "content" not in described:
        assert not got.body
        return
    schema = {**described["content"]["application/json"]["schema"], "components": document["components"]}
    jsonschema_rs.Draft202012Validator(schema).validate(got.json)
    assert got.headers["content-type"] == "application/json"


# The door


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_has_its_guard(server: Server, program: Client, anybody: Client, route: Any) -> None:
    """Without anything: 401 but for the open ones. With an API token: 403 where only the owner may."""
    path = re.sub(r"\{\w+\}", "x", route.path)
    body = {} if route.body is not None else None
    open_ = route.access == "open"
    for headers in (
        {},
        {"Authorization": "Bearer loket_wrong"},
        {"Authorization": "Basic eDp5"},
        {"Cookie": "loket_session=x", "Origin": anybody.origin},
    ):
        got = Client(server.port, dict(headers))(route.method, path, body)
        assert (got.status == 401) is (not open_), (got.status, got.body)
        assert ("www-authenticate" in got.headers) is (not open_)
    got = program(route.method, path, body)
    if route.raw:  # who may is said by a signature, and nobody has signed anything here
        assert got.status in (403, 404)
        return
    assert (got.status == 403) is (route.access in ("owner", "home"))
    if got.status == 403:
        assert got.code == "gateway.access"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_refuses_foreign_hosts_and_origins(server: Server, owner: Client, route: Any) -> None:
    """Also with a good session: the checks come before anything else."""
    path = re.sub(r"\{\w+\}", "x", route.path)
    for name, value, code in (
        ("Host", f"evil.example:{server.port}", "gateway.host"),
        ("Host", "127.0.0.1.evil.example", "gateway.host"),
        ("Host", "localhost:x@evil.example", "gateway.host"),
        ("Host", f"127.0.0.1:evil.example:{server.port}", "gateway.host"),
        ("Host", "localhost:", "gateway.host"),
        ("Origin", "http://evil.example", "gateway.origin"),
        ("Origin", "null", "gateway.origin"),
        ("Origin", f"http://127.0.0.1:{server.port + 1}", "gateway.origin"),
        ("Origin", f"http://localhost:{server.port}", "gateway.origin"),
        ("Origin", f"https://127.0.0.1:{server.port}", "gateway.origin"),
        ("Origin", f"http://127.0.0.1:{server.port}/", "gateway.origin"),
    ):
        got = owner(route.method, path, {} if route.body is not None else None, **{name: value})
        assert (got.status, got.code) == (403, code), (name, value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_only_our_own_origin_ever_gets_in(server: Server, program: Client, data: st.DataObject) -> None:
    """Whatever stands in `Host` and `Origin`: what gets in is a loopback host, and no origin or exactly that host's."""
    parts = [
        "http://",
        "https://",
        "127.0.0.1",
        "localhost",
        "[::1]",
        f":{server.port}",
        ":80",
        ".",
        "evil.example",
        "@",
        "/",
        "%00",
        " ",
        "\t",
        "null",
        "127.1",
        "0.0.0.0",  # noqa: S104 - a host that is refused
    ]
    words = st.lists(st.sampled_from(parts), max_size=5).map("".join)
    host = data.draw(st.one_of(words, st.just(f"127.0.0.1:{server.port}"), st.just(f"localhost:{server.port}")))
    origin = data.draw(st.one_of(st.none(), words, st.just(f"http://{host}")))
    got = _raw(
        server.port,
        f"GET /v1/status HTTP/1.1\r\nHost: {host}\r\n"
        + (f"Origin: {origin}\r\n" if origin is not None else "")
        + f"Authorization: {program.headers['Authorization']}\r\nConnection: close\r\n\r\n",
    )
    if got.startswith(b"HTTP/1.1 200"):
        assert re.fullmatch(r"\s*(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?\s*", host)
        assert origin is None or (
            origin.strip() == f"http://{host.strip()}"
            and host.strip() in (f"127.0.0.1:{server.port}", f"localhost:{server.port}")
        )
    else:
        assert re.match(rb"HTTP/1.1 (400|403) ", got)


def _raw(port: int, request: str | bytes) -> bytes:
    """Send bytes; everything that comes back until the connection closes."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(request.encode() if isinstance(request, str) else request)
        got = bytearray()
        while chunk := connection.recv(1 << 16):
            got += chunk
    return bytes(got)


@pytest.mark.parametrize(
    ("headers", "read", "changed"),
    [
        ({"Origin": "own"}, 200, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200, 200),
        ({"Origin": "own", "Sec-Fetch-Site": "same-origin"}, 200, 200),
        ({}, 200, 403),
        ({"Sec-Fetch-Site": "none"}, 200, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403, 403),
        ({"Origin": "own", "Sec-Fetch-Site": "cross-site"}, 403, 403),
        ({"Sec-Fetch-Site": "Same-Origin"}, 403, 403),
    ],
)
def test_a_cookie_alone_changes_nothing(owner: Client, headers: dict[str, str], read: int, changed: int) -> None:
    """What another page causes is refused (CSRF): also one on another port of this machine, which is the same site."""
    given = {name: owner.origin if value == "own" else value for name, value in headers.items()}
    client = Client(owner.port, {"Cookie": owner.headers["Cookie"], **given})
    assert client("GET", "/v1/status").status == read
    assert client("POST", "/v1/grants", {"agent": "main", "capability": "kv.get"}).status == changed


def test_what_is_sent_twice_is_refused(server: Server, owner: Client, program: Client) -> None:
    """Two hosts, two origins, two authorisations, two sessions: nobody has to guess which one counts."""
    token = program.headers["Authorization"]
    line = f"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
    for twice in (
        f"Host: 127.0.0.1:{server.port}",
        f"Origin: {owner.origin}\r\nOrigin: {owner.origin}",
        f"Authorization: {token}\r\nAuthorization: {token}",
    ):
        assert _raw(server.port, f"{line}{twice}\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    cookie = owner.headers["Cookie"]
    assert owner("GET", "/v1/status", Cookie=f"{cookie}; loket_session=other").code == "gateway.session"
    assert owner("GET", "/v1/status", Cookie=f"theme=dark; {cookie}; a=b").status == 200
    assert owner("GET", "/v1/status", Authorization="Bearer wrong").status == 401


def test_a_body_with_two_lengths_is_refused_and_the_connection_closed(server: Server) -> None:
    """Content-Length and chunks together (request smuggling): what follows on the connection is no second request."""
    got = _raw(
        server.port,
        f"POST /v1/session HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 4\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n",
    )
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"gateway.length" in got
    assert got.count(b"HTTP/1.1 ") == 1


def test_every_answer_is_safe_and_no_other_page_may_read_one(server: Server, owner: Client) -> None:
    """The security headers are on whatever is answered, faults and refusals included; there are no CORS headers."""
    preflight = {"Access-Control-Request-Method": "POST", "Origin": owner.origin}
    answers = [
        owner("GET", "/healthz"),
        owner("GET", "/v1/status"),
        owner("GET", "/nothing"),
        owner("PATCH", "/v1/status"),
        owner("OPTIONS", "/v1/grants", **preflight),
        owner("GET", "/v1/status", Host="evil.example"),
        owner("POST", "/v1/grants", b"{"),
        Client(server.port)("GET", "/v1/status"),
        owner("POST", "/v1/agents/main/messages", {"text": "hello"}, Accept="text/event-stream"),
    ]
    assert [got.status for got in answers] == [200, 200, 404, 405, 405, 403, 400, 401, 200]
    assert answers[3].headers["allow"] == "GET"
    raw = [
        _raw(server.port, b"rubbish\r\n\r\n"),
        _raw(server.port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 20_000),
        _raw(server.port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + b"X: x\r\n" * 70 + b"\r\n"),
    ]
    for text in raw:
        assert re.match(rb"HTTP/1.1 (400|431) ", text)
        head = text.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        answers.append(Answer(400, {n.lower(): v for n, v in (line.split(": ", 1) for line in head)}, b""))
    for got in answers:
        assert SAFE.items() <= got.headers.items()
        assert not [name for name in got.headers if name.startswith("access-control")]
        assert "server" not in got.headers


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        ("/v1/agents/main/messages", b"{", {}, 400, "gateway.body"),
        ("/v1/agents/main/messages", b"", {}, 400, "gateway.body"),
        ("/v1/agents/main/messages", b"[]", {}, 400, "gateway.body"),
        ("/v1/agents/main/messages", b'{"text": NaN}', {}, 400, "gateway.body"),
        ("/v1/agents/main/messages", b'{"text": 1e999}', {}, 400, "gateway.body"),
        ("/v1/agents/main/messages", b'{"text": "\\ud800"}', {}, 400, "gateway.body"),
        ("/v1/agents/main/messages", b"[" * 100_000, {}, 400, "gateway.body"),
        ("/v1/agents/main/messages", {"text": 5}, {}, 400, "arguments.invalid"),
        ("/v1/agents/main/messages", {"text": "a", "extra": 1}, {}, 400, "arguments.invalid"),
        ("/v1/agents/main/messages", {"text": "a", "conversation": "a\0b"}, {}, 400, "arguments.conversation"),
        ("/v1/agents/main/messages", {"text": "a", "conversation": "a\n"}, {}, 400, "arguments.conversation"),
        ("/v1/agents/main/messages", {"text": "a", "conversation": "a\u2028b"}, {}, 400, "arguments.conversation"),
        ("/v1/agents/main/messages", {"text": "a", "watch": True}, {}, 400, "arguments.invalid"),
        ("/v1/agents/main/messages", {}, {}, 400, "arguments.invalid"),
        ("/v1/agents/main/messages", {"text": "a"}, {"Content-Type": "text/plain"}, 415, "gateway.type"),
        ("/v1/agents/main/messages", b'{"text": "' + b"x" * (9 << 20) + b'"}', {}, 413, "gateway.size"),
        ("/v1/agents/" + "a" * 65 + "/messages", {"text": "a"}, {}, 400, "arguments.invalid"),
        ("/v1/runs/x/stop", {"now": True}, {}, 400, "gateway.body"),
        ("/v1/agents/main/messages?watch=1", {"text": "a"}, {}, 400, "arguments.unknown"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_named(
    program: Client, path: str, body: Any, headers: dict[str, str], status: int, code: str
) -> None:
    """Status, code, message and remedy, and the server goes on."""
    got = program("POST", path, body, **headers)
    assert (got.status, got.code) == (status, code), got.body
    error = got.json["error"]
    assert error["kind"] == "input"
    assert error["message"]
    assert error["remedy"]
    assert program("GET", "/healthz").status == 200


def test_no_error_repeats_a_password(anybody: Client) -> None:
    """Wrong types, wrong fields and broken JSON: the answer says what is wrong without the words."""
    for body in (
        {"name": "ana", "password": ["sesame-4711"]},
        {"name": "ana", "passwort": "sesame-4711"},
        {"name": "ana", "password": "sesame-4711", "more": "sesame-4711"},
        b'{"name": "ana", "password": "sesame-4711"',
        b'{"name": "ana", "password": "sesame-4711\\ud800"}',
    ):
        got = anybody("POST", "/v1/session", body)
        assert got.status == 400
        assert b"sesame" not in got.body


# Sessions and tokens


def test_a_session_is_a_cookie_that_no_script_reads_and_ends_with_logout(anybody: Client) -> None:
    """HttpOnly, SameSite=Strict, the whole path; after DELETE it is worth nothing and the browser drops it."""
    got = anybody("POST", "/v1/session", {"name": "ana", "password": PASSWORD})
    cookie = got.headers["set-cookie"]
    assert re.match(r"loket_session=[A-Za-z0-9_-]{43}; ", cookie)
    assert {part.strip().lower() for part in cookie.split(";")[1:]} == {
        "httponly",
        "samesite=strict",
        "path=/",
        "max-age=604800",
    }
    assert "secret" not in got.json
    client = anybody.session()
    assert client("GET", "/v1/session").json["name"] == "ana"
    ended = client("DELETE", "/v1/session")
    assert ended.status == 204
    assert "max-age=0" in ended.headers["set-cookie"].lower()
    assert client("GET", "/v1/session").code == "gateway.session"


def test_wrong_passwords_are_slowed_down_and_say_when_to_come_again(tmp_path: Path) -> None:
    """401 four times, then 429 with `Retry-After`, for the right password too; the command line gets in at once."""
    home = prepare(tmp_path / "home")
    with serving(home) as server:
        client = Client(server.port)
        assert client("POST", "/v1/session", {"name": "ana", "password": PASSWORD}).status == 409
        loket(home, "account", "create", "ana", stdin=PASSWORD)
        waits = None
        while waits is None or waits.status == 201:  # on a busy machine the first delay may be over before the next try
            wrong = [client("POST", "/v1/session", {"name": "ana", "password": "wrong guess"}).status for _ in range(5)]
            assert wrong[:4] == [401] * 4
            waits = client("POST", "/v1/session", {"name": "ana", "password": PASSWORD})
        assert waits.status == 429
        time.sleep(int(waits.headers["retry-after"]) + 0.1)
        session = client.session()
        assert session("PUT", "/v1/account/password", {"password": "another password"}).code == "login.wrong"
        changed = session("PUT", "/v1/account/password", {"password": "another password", "old": PASSWORD})
        assert changed.status == 204
        assert session("GET", "/v1/session").status == 401
        loket(home, "account", "password", stdin=PASSWORD)
        assert client.session()("GET", "/v1/session").status == 200


def test_the_setup_code_of_the_first_start_makes_the_account(tmp_path: Path) -> None:
    """It is printed with the line to use; once there is an account no start prints one."""
    home = prepare(tmp_path / "home")
    with serving(home) as server:
        assert server.process.stdout is not None
        code = None
        while code is None:
            code = re.search(r"the code ([a-z0-9-]{29})$", server.process.stdout.readline())
        client = Client(server.port)
        wrong = {"code": "wrong", "name": "ana", "password": PASSWORD}
        assert client("POST", "/v1/setup", wrong).code == "setup.code"
        assert client("POST", "/v1/setup", {**wrong, "code": code[1]}).status == 201
        assert client("POST", "/v1/setup", {**wrong, "code": code[1]}).status == 409
        assert client.session()("GET", "/v1/status").status == 200
        assert server.stop() == 0
    with serving(home) as again:
        assert again.stop() == 0
        assert again.process.stdout is not None
        assert "the code " not in again.process.stdout.read()


def test_a_token_makes_no_token_and_is_gone_when_revoked(server: Server, owner: Client) -> None:
    """It works everywhere else; revoked on the command line it is refused from the next request on."""
    made = owner("POST", "/v1/tokens", {"name": "brief", "days": 1}).json
    client = Client(server.port, {"Authorization": f"Bearer {made['secret']}"})
    assert client("GET", "/v1/agents").status == 200
    assert client("POST", "/v1/tokens", {"name": "child"}).code == "gateway.access"
    assert client("PUT", "/v1/account/password", {"password": "another password"}).code == "gateway.access"
    assert client("POST", "/v1/operations/status", {}).code == "gateway.access"
    loket(server.home, "token", "revoke", "brief")
    assert client("GET", "/v1/agents").status == 401


def test_the_homes_token_opens_every_route(server: Server) -> None:
    """The command line's own: it makes tokens without a session."""
    local = Client(server.port, {"Authorization": f"Bearer {(server.home / 'token').read_text()}"})
    assert local("POST", "/v1/tokens", {"name": "local"}).status == 201
    assert local("GET", "/v1/status").json["agents"] == ["main"]
    assert local("GET", "/v1/session").status == 401


# Messages and runs


def test_a_message_is_accepted_and_answered_later(program: Client) -> None:
    """202 with the run and where it is; the same message id is the same run."""
    body = {"text": "capital?", "message": "api-1"}
    got = program("POST", "/v1/agents/main/messages", body)
    assert got.status == 202
    run = got.json["run"]
    assert got.headers["location"] == f"/v1/runs/{run}"
    assert program("POST", "/v1/agents/main/messages", body).json == {"run": run}
    ended = events(program("GET", f"/v1/runs/{run}/events").body)[-1]
    assert ended[1] == "end"
    assert ended[2]["answer"]["text"] == "Paris is the capital."
    assert program("GET", got.headers["location"]).json["status"] == "done"


def test_a_programs_message_ids_are_its_own(program: Client, owner: Client) -> None:
    """A program that guesses the id of another's message, or of a schedule's, does not take its place."""
    body = {"text": "capital?", "message": "schedule:21f1ee4404:at:1795000000.000"}
    first = program("POST", "/v1/agents/main/messages", body).json["run"]
    assert program("POST", "/v1/agents/main/messages", body).json["run"] == first
    assert owner("POST", "/v1/agents/main/messages", body).json["run"] != first


def test_a_message_is_answered_as_events(program: Client) -> None:
    """Accepted, calls, pieces, the end: each with its number, and nothing after it."""
    got = program("POST", "/v1/agents/main/messages", {"text": "capital?"}, Accept="text/event-stream")
    assert got.status == 200
    assert got.headers["content-type"].startswith("text/event-stream")
    found = events(got.body)
    assert [number for number, _kind, _data in found] == list(range(1, len(found) + 1))
    assert found[0][1] == "accepted"
    assert "".join(data["text"] for _n, kind, data in found if kind == "piece") == "Paris is the capital."
    assert found[-1][1] == "end"
    assert found[-1][2]["status"] == "done"


def test_a_run_that_has_ended_says_so_at_once(program: Client) -> None:
    """One event, and the stream is over; whoever comes again goes on counting."""
    run = ask(program)
    (one,) = events(program("GET", f"/v1/runs/{run}/events", Last_Event_ID="41").body)
    assert (one[0], one[1], one[2]["run"]) == (42, "end", run)


def test_whoever_watches_from_the_middle_gets_the_end(program: Client) -> None:
    """Ten readers come at any time of a run's life, leave and come again: each of them gets its end once."""
    run = program("POST", "/v1/agents/main/messages", {"text": "slow one", "conversation": "w"}).json["run"]
    ends: list[str] = []

    def watch(pause: float) -> None:
        time.sleep(pause)
        connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=120)
        connection.request("GET", f"/v1/runs/{run}/events", headers=program.headers)
        response = connection.getresponse()
        if pause < 1:
            response.fp.readline()
        response.close()
        connection.close()
        ends.extend(kind for _n, kind, _d in events(program("GET", f"/v1/runs/{run}/events").body) if kind == "end")

    threads = [threading.Thread(target=watch, args=(at * 0.3,)) for at in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == ["end"] * 10
    states = events(program("GET", f"/v1/runs/{run}/events").body)
    assert [kind for _n, kind, _d in states] == ["end"]


def test_a_reader_that_leaves_does_not_end_the_run(program: Client) -> None:
    """What was accepted is answered, whether anybody listens or not."""
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=120)
    body = json.dumps({"text": "slow, and left", "conversation": "left"}).encode()
    headers = {**program.headers, "Accept": "text/event-stream", "Content-Type": "application/json"}
    connection.request("POST", "/v1/agents/main/messages", body, headers)
    response = connection.getresponse()
    first = b"".join(response.fp.readline() for _ in range(5))
    response.close()
    connection.close()
    run = re.search(rb'"run": "(\w+)"', first)
    assert run is not None
    ended = events(program("GET", f"/v1/runs/{run[1].decode()}/events").body)[-1]
    assert ended[2]["status"] == "done"


def test_a_run_is_stopped_and_verified(program: Client) -> None:
    """Stopped while the model thinks; its row says so, its journal verifies, and a second stop is a conflict."""
    run = program("POST", "/v1/agents/main/messages", {"text": "slow to stop", "conversation": "s"}).json["run"]
    stopped = program("POST", f"/v1/runs/{run}/stop")
    assert (stopped.status, stopped.json) == (200, {"run": run, "status": "stopped"})
    assert program("POST", f"/v1/runs/{run}/stop").code == "run.finished"
    assert program("POST", f"/v1/runs/{ask(program)}/verify").json["ok"]
    assert [r["id"] for r in program("GET", "/v1/runs?status=stopped").json["runs"]] == [run]


def test_runs_are_read_page_by_page(program: Client) -> None:
    """Pages of three, joined, are the list as a whole: newest first, each run once."""
    for _ in range(4):
        ask(program)
    whole = [run["id"] for run in program("GET", "/v1/runs?agent=main&status=done&limit=1000").json["runs"]]
    paged: list[str] = []
    url: str | None = "/v1/runs?agent=main&status=done&limit=3"
    while url is not None:
        page = program("GET", url).json
        paged += [run["id"] for run in page["runs"]]
        url = f"/v1/runs?agent=main&status=done&limit=3&before={page['next']}" if page["next"] else None
    assert paged == whole
    assert len(set(paged)) == len(paged) >= 4


def test_grants_are_given_and_taken_back(owner: Client, program: Client) -> None:
    """What the command line does, over HTTP: it counts at once, and is in the list. No API token may do it."""
    wanted = {"agent": "main", "capability": "kv.set", "constraints": {"prefixes": ["a/"]}}
    assert program("POST", "/v1/grants", wanted).code == "gateway.access"
    given = owner("POST", "/v1/grants", wanted)
    assert given.status == 200, given.body
    held = {grant["capability"]: grant for grant in program("GET", "/v1/grants?agent=main").json["grants"]}
    assert held["kv.set"]["constraints"] == {"prefixes": ["a/"]}
    assert program("DELETE", "/v1/grants/main/kv.set").code == "gateway.access"
    assert owner("DELETE", "/v1/grants/main/kv.set").json["revoked"]
    assert "kv.set" not in [grant["capability"] for grant in program("GET", "/v1/grants").json["grants"]]


def test_streams_do_not_keep_the_server_from_stopping(tmp_path: Path) -> None:
    """A watcher of a run that takes long is sent away; the server stops before its grace of five seconds is over."""
    with ModelServer([Reply("late", latency_s=60)]) as model:
        home = prepare(tmp_path / "home", model.url)
        with serving(home) as server:
            local = Client(server.port, {"Authorization": f"Bearer {(home / 'token').read_text()}"})
            run = local("POST", "/v1/agents/main/messages", {"text": "hello"}).json["run"]
            got: list[Answer] = []
            watching = threading.Thread(target=lambda: got.append(local("GET", f"/v1/runs/{run}/events")))
            watching.start()
            assert model.asked.wait(120)
            assert server.stop() == 0
            assert server.process.stdout is not None
            assert "graceful shutdown exceeded" not in server.process.stdout.read()
            watching.join(120)
            assert events(got[0].body)[0][1] == "state"


# Slow and silent clients, on a server in this process whose deadlines are short


@contextlib.contextmanager
def quick(perform: Any = None, api: Api | None = None, **bounds: float) -> Iterator[int]:
    """The gateway with other bounds, in a thread; its port."""

    async def nothing(_name: str, _args: Any, _emit: Any) -> Any:
        return {}

    loop = asyncio.new_event_loop()
    with contextlib.ExitStack() as stack:
        for name, value in bounds.items():
            stack.enter_context(patch.object(sse if name == "HEARTBEAT_S" else protocol, name, value))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = make_server(Gateway(perform or nothing, "home", lambda: True, api), listener.getsockname()[1])
        thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(sockets=[listener]),))
        thread.start()
        port = listener.getsockname()[1]
        while not server.started:
            time.sleep(0.01)
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(120)
            assert not thread.is_alive()
            loop.close()


def _drip(port: int, first: bytes, drops: bytes = b"", pause: float = 0.1) -> tuple[bytes, float]:
    """Send bytes, then one at a time; what came back until the connection was closed, and after how many seconds."""
    started = time.monotonic()
    got = b""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(first)
        connection.settimeout(pause)
        left = iter(drops)
        while time.monotonic() - started < 15:
            try:
                chunk = connection.recv(1 << 16)
            except TimeoutError:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what was answered is still read
                    connection.send(bytes(itertools.islice(left, 1)))
                continue
            except ConnectionResetError:  # closed while a byte was under way
                chunk = b""
            if not chunk:
                return got, time.monotonic() - started
            got += chunk
    raise AssertionError("the connection was never closed")


_POST = b"POST /v1/operations/x HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer home\r\n"


@pytest.mark.parametrize(
    ("first", "drops"),
    [
        (b"", b""),
        (b"GET /healthz HT", b""),
        (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"X-Slow: " + b"x" * 200),
        (b"", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 200),
        (_POST + b"Content-Length: 900\r\n\r\n{", b" " * 200),
    ],
    ids=["silent", "half a line", "slow headers", "slow from the start", "slow body"],
)  # fmt: skip
def test_a_request_has_to_come_in_time(first: bytes, drops: bytes) -> None:
    """Silent, half and dripping requests are answered with 408 and closed; more bytes give no more time."""
    with quick(HEAD_S=0.6, BODY_S=0.6) as port:
        got, took = _drip(port, first, drops)
        assert got.startswith(b"HTTP/1.1 408 ")
        assert b"gateway.timeout" in got
        assert took > 0.4


def test_a_second_request_on_a_connection_has_its_deadline_too() -> None:
    """After one good request the next one drips: uvicorn forgets its own time-out at the first byte."""
    good = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with quick(HEAD_S=0.6, BODY_S=0.6) as port:
        got, _took = _drip(port, good + b"GET /heal", b"x" * 200)
        assert got.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in got


def test_an_answer_that_takes_long_is_not_cut_off() -> None:
    """The deadlines are for requests: an operation may take as long as it needs, its reader waits."""

    async def slow(_name: str, _args: Any, emit: Any) -> Any:
        emit({"type": "progress", "done": 1, "total": 2})
        await asyncio.sleep(2.0)
        return {"done": True}

    with quick(slow, HEAD_S=0.4, BODY_S=0.4, STALLED_S=0.4) as port:
        client = Client(port, {"Authorization": "Bearer home"})
        got = client("POST", "/v1/operations/anything", {})
        assert json.loads(got.body.splitlines()[-1]) == {"type": "result", "value": {"done": True}}


def test_connections_have_a_bound() -> None:
    """One more than the bound is told so and closed; when one closes the next is served."""
    with quick(MOST_CONNECTIONS=5) as port, contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(5)]
        time.sleep(0.2)
        got, _took = _drip(port, b"")
        assert got.startswith(b"HTTP/1.1 503 ")
        held[0].close()
        time.sleep(0.2)
        assert Client(port)("GET", "/healthz").status == 200


def test_a_reader_that_stops_reading_is_dropped_and_costs_a_bounded_amount() -> None:
    """An operation emits 400 MB of pieces to a reader that takes none: the process grows by a few, and cuts it off."""
    emitted = threading.Event()

    async def flood(_name: str, _args: Any, emit: Any) -> Any:
        for at in range(400):
            for _ in range(10):
                emit({"type": "piece", "text": "x" * 100_000, "at": at})
            await asyncio.sleep(0.005)
        emitted.set()
        return {"done": True}

    with quick(flood, STALLED_S=1.0) as port:
        before = _resident()
        with socket.create_connection(("127.0.0.1", port), 20) as connection:
            connection.sendall(_POST + b"Content-Length: 2\r\n\r\n{}")
            assert emitted.wait(60)
            assert _resident() - before < 30 << 20
            time.sleep(1.5)
            got = b""
            while chunk := connection.recv(1 << 20):
                got = got[-1000:] + chunk
        assert b'"result"' not in got
        assert Client(port)("GET", "/healthz").status == 200


def test_a_silent_stream_is_kept_open_until_its_reader_may_read_no_more(tmp_path: Path) -> None:
    """Comments come while nothing happens; once the token is revoked the stream ends, and its work too."""
    left = threading.Event()

    async def silent(_name: str, _args: Any, emit: Any) -> Any:
        emit({"type": "state", "status": "waiting"})
        try:
            await asyncio.sleep(60)
        finally:
            left.set()

    store = Database(tmp_path / "gateway.db")
    accounts, tokens = Accounts(store, Passwords(), time.time), Tokens(store, time.time)
    made = asyncio.run(tokens.make("watcher", None))
    api = Api(accounts, Sessions(store, accounts, time.time), tokens, compile_check)
    with contextlib.closing(store), quick(silent, api, HEARTBEAT_S=0.2) as port:
        headers = {"Authorization": f"bearer {made['secret']}", "Connection": "close"}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("GET", "/v1/runs/x/events", headers=headers)
        response = connection.getresponse()
        text = b"".join(response.fp.readline() for _ in range(16))
        assert text.count(b": waiting") >= 2
        asyncio.run(tokens.revoke(made["id"]))
        started = time.monotonic()
        response.fp.read()
        assert time.monotonic() - started < 30
        assert left.wait(60)
        response.close()
        connection.close()


def test_a_refusal_is_the_only_answer_to_a_request_whose_body_drips() -> None:
    """Refused for its token before its body is there: one answer, 401, and at the deadline the connection is closed."""
    first = b"POST /v1/operations/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n{"
    with quick(HEAD_S=0.6, BODY_S=0.6) as port:
        got, _took = _drip(port, first, b" " * 200)
        assert got.startswith(b"HTTP/1.1 401 ")
        assert got.count(b"HTTP/1.1") == 1


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["piece", "call", "progress"]), st.integers(0, 300_000)), max_size=40))
def test_a_mailbox_drops_pieces_and_never_the_end(events_: list[tuple[str, int]]) -> None:
    """Whatever comes while nobody reads: at most its bound is held, what is dropped is counted, the end is there."""

    async def run() -> None:
        box = Mailbox()
        for kind, size in events_:
            box.put({"type": kind, "text": "x" * size})
        box.put({"type": "end", "answer": "y" * 2 * MOST_BYTES})
        box.close()
        got = []
        while (event := await box.get()) is not None:
            got.append(event)
        assert got[-1][1] == "end"
        assert got[-1][0] == len(events_) + 1
        dropped = sum(json.loads(data)["count"] for _n, kind, data in got if kind == "dropped")
        kept = [event for event in got if event[1] not in ("dropped", "end")]
        assert len(kept) + dropped == len(events_)
        assert sum(len(data) for _n, _k, data in kept) <= MOST_BYTES

    asyncio.run(run())
