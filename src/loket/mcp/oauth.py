"""Logging in to servers elsewhere, by OAuth 2.1: the library's flow, with its tokens in the vault.

An agent's call never opens a browser: where a server wants a login, the call fails and says which command logs in. The
redirect comes to a port of this machine that is open only while the owner logs in.
"""

import asyncio
import contextlib
import html
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs, urlencode, urlsplit

from loket.contracts import BadInput, Damaged, Failed, Refusal, command
from loket.mcp.settings import Server, filled

if TYPE_CHECKING:
    import httpx2
    from mcp.client.auth import OAuthClientProvider
    from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

_PATH = "/callback"
WAIT_S = 300.0
_REQUEST = 16_384
_MOST = 4
_UNAUTHORIZED = 401


class Vault(Protocol):
    """What is needed of the vault."""

    def get(self, name: str) -> str | None: ...

    def put(self, name: str, value: str) -> None: ...

    def delete(self, name: str) -> bool: ...

    def names(self) -> Any: ...


class Held:
    """A server's tokens and its registration, in the vault. The library's `TokenStorage`."""

    def __init__(self, vault: Vault, server: Server) -> None:
        self._vault = vault
        self._server = server
        self._tokens, self._client = f"mcp.{server.name}.tokens", f"mcp.{server.name}.client"
        self.redirect = "http://127.0.0.1:0" + _PATH

    @property
    def expires(self) -> float | None:
        """When the access token ends, in seconds since 1970; the library itself forgets that."""
        kept = self._read(self._tokens)
        return None if kept is None else kept.get("expires_at")

    @property
    def document(self) -> str | None:
        """The address of the document that describes the client, where its id is one."""
        return self._server.client_id if self._server.client_id.startswith("https://") else None

    @property
    def known(self) -> bool:
        """Whether there are tokens."""
        return self._read(self._tokens) is not None

    @property
    def registered_port(self) -> int:
        """The port that the registration names, or 0."""
        kept = self._read(self._client) or {}
        uris = kept.get("redirect_uris") or [""]
        return urlsplit(str(uris[0])).port or 0

    async def get_tokens(self) -> "OAuthToken | None":
        from mcp.shared.auth import OAuthToken

        kept = self._read(self._tokens)
        return None if kept is None else OAuthToken.model_validate(kept["tokens"])

    async def set_tokens(self, tokens: "OAuthToken") -> None:
        until = time.time() + tokens.expires_in if tokens.expires_in is not None else None
        said = {"tokens": tokens.model_dump(mode="json", exclude_none=True), "expires_at": until}
        await asyncio.to_thread(self._vault.put, self._tokens, json.dumps(said))

    async def get_client_info(self) -> "OAuthClientInformationFull | None":
        from mcp.shared.auth import OAuthClientInformationFull

        if self._server.client_id and not self.document:
            secret = filled(self._server, self._server.client_secret, self._vault.get) or None
            method = "client_secret_basic" if secret else "none"
            given = {"client_id": self._server.client_id, "client_secret": secret, "redirect_uris": [self.redirect]}
            return OAuthClientInformationFull.model_validate({**given, "token_endpoint_auth_method": method})
        kept = self._read(self._client)
        return None if kept is None else OAuthClientInformationFull.model_validate(kept)

    async def set_client_info(self, client_info: "OAuthClientInformationFull") -> None:
        said = json.dumps(client_info.model_dump(mode="json", exclude_none=True))
        await asyncio.to_thread(self._vault.put, self._client, said)

    def forget(self, *, registration: bool = True) -> bool:
        """Take the tokens away, and the registration; whether there were tokens."""
        if registration:
            self._vault.delete(self._client)
        return self._vault.delete(self._tokens)

    def _read(self, name: str) -> dict[str, Any] | None:
        text = self._vault.get(name)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except ValueError:
            raise Damaged("mcp.tokens", f"{name} in the vault is not what Loket wrote there", None) from None
        return value if isinstance(value, dict) else None


def provider(
    server: Server,
    held: Held,
    show: Callable[[str], Awaitable[None]],
    answer: Callable[[], Awaitable[Any]],
) -> "OAuthClientProvider":
    """The library's flow for a server. `show` gets the address to open, `answer` gives what the redirect said."""
    from mcp.client.auth import OAuthClientProvider
    from mcp.shared.auth import OAuthClientMetadata

    metadata = OAuthClientMetadata.model_validate(
        {
            "client_name": "Loket",
            "redirect_uris": [held.redirect],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }
    )
    made = OAuthClientProvider(server.url, metadata, held, show, answer, held.document)
    made.context.token_expiry_time = held.expires
    return made


def silent(server: Server, held: Held, wanted: Callable[[str], None]) -> "httpx2.Auth":
    """The flow without a person: what is in the vault is used and renewed, and anything else fails.

    `wanted` hears which scopes a login would have to ask for. Where nobody has logged in, nothing is asked of anybody.
    """
    import httpx2

    def refused() -> Refusal:
        said = f"the server {server.name} wants its owner to log in"
        return Refusal("mcp.login", said, command("mcp", "login", server.name), blame="owner")

    async def refuse(url: str = "") -> Any:
        wanted(" ".join(parse_qs(urlsplit(url).query).get("scope", [])))
        raise refused()

    class LoggedOut(httpx2.Auth):
        async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
            response = yield request
            if response.status_code == _UNAUTHORIZED:
                raise refused()

    return provider(server, held, refuse, refuse) if held.known else LoggedOut()


class Desk:
    """Waits on a port of this machine for the redirect that ends a login."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._said: asyncio.Queue[dict[str, str]] = asyncio.Queue(_MOST)
        self._asked = False

    def ask(self) -> None:
        """Wait for a redirect from now on: what came before belongs to another page."""
        self._asked = True
        while not self._said.empty():
            self._said.get_nowait()

    @property
    def redirect(self) -> str:
        return f"http://127.0.0.1:{self.port}{_PATH}"

    async def answer(self) -> Any:
        """What the redirect said, as the library takes it. Raises `Failed` (`mcp.login`)."""
        from mcp.shared.auth import AuthorizationCodeResult

        try:
            async with asyncio.timeout(WAIT_S):
                said = await self._said.get()
        except TimeoutError:
            raise Failed("mcp.login", f"nobody logged in within {WAIT_S:g} s", "try again", blame="owner") from None
        if "code" not in said:
            why = said.get("error_description") or said.get("error") or "no code came back"
            raise Failed("mcp.login", f"the login was refused: {why[:200]}", "try again", blame="owner")
        return AuthorizationCodeResult(code=said["code"], state=said.get("state"), iss=said.get("iss"))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a browser."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            async with asyncio.timeout(10):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, address, _ = [*head.partition("\r\n")[0].split(" "), "", ""][:3]
            parts = urlsplit(address)
            fits = method == "GET" and parts.path == _PATH and self._asked and not self._said.full()
            if fits:
                self._said.put_nowait({name: texts[0] for name, texts in parse_qs(parts.query).items()})
            words = "You are logged in to the server, and can close this page." if fits else "There is nothing here."
            page = f"<!doctype html><title>Loket</title><p>{html.escape(words)}".encode()
            status = "200 OK" if fits else "404 Not Found"
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(page)}\r\n"
                "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n".encode()
                + page
            )
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def desk(port: int) -> AsyncIterator[Desk]:
    """A desk on this port where it is free, else on any."""
    made = Desk(port)
    try:
        server = await asyncio.start_server(made.serve, "127.0.0.1", port, limit=_REQUEST)
    except OSError:
        server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=_REQUEST)
    made.port = int(server.sockets[0].getsockname()[1])
    async with server:
        yield made


def with_scopes(url: str, scopes: str) -> str:
    """The address of a login that asks for these scopes too."""
    if not scopes:
        return url
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    asked = [word for text in (*query.get("scope", []), scopes) for word in text.split()]
    query["scope"] = [" ".join(dict.fromkeys(asked))]
    return parts._replace(query=urlencode(query, doseq=True)).geturl()


def check(server: Server) -> None:
    """Raises `BadInput` (`mcp.login`) for a server that knows no login."""
    if not server.url:
        raise BadInput("mcp.login", f"{server.name} is a process on this machine, which knows no login", None)
    if any(name.lower() == "authorization" for name in server.headers):
        raise BadInput(
            "mcp.login",
            f"{server.name} is given the header Authorization, so nobody logs in",
            "take the header away, or renew its secret: loket vault put NAME",
        )
