"""What answers for one set of settings: connections to endpoints, and the embedded model.

Settings can change while calls are in flight: those end on what they started with, and the last one closes it.
"""

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from loket.contracts import Json, LoketError, Secrets, command
from loket.providers.llm_chat import AttemptFailed, Completion, Emit
from loket.providers.llm_embedded import EmbeddedModel
from loket.providers.llm_settings import LlmSettings, Route

if TYPE_CHECKING:
    from loket.providers.llm_openai import Endpoint


class Backend(Protocol):
    """Something that can make one attempt. Raises `AttemptFailed`."""

    async def complete(self, args: Mapping[str, Json], emit: Emit | None) -> Completion: ...


async def import_client() -> Any:
    """Import the client's module on another thread: it takes a second."""
    return await asyncio.to_thread(importlib.import_module, "loket.providers.llm_openai")


class Backends:
    """The backends of some settings. `embedded` is closed with them, unless `retire` is told to keep it."""

    def __init__(self, settings: LlmSettings, secrets: Secrets, embedded: EmbeddedModel | None) -> None:
        self.settings = settings
        self.embedded = embedded
        self._secrets = secrets
        self._endpoints: dict[tuple[str, str | None], Endpoint] = {}
        self._calls = 0
        self._retired = False
        self._kept = False

    @contextlib.asynccontextmanager
    async def used(self) -> AsyncIterator[Self]:
        """Hold the backends open for one call."""
        self._calls += 1
        try:
            yield self
        finally:
            self._calls -= 1
            if self._retired and not self._calls:
                await self.close()

    async def retire(self, keep: EmbeddedModel | None) -> None:
        """Close as soon as no call uses them; the embedded model stays open where it is the one to keep."""
        self._retired = True
        self._kept = keep is not None and keep is self.embedded
        if not self._calls:
            await self.close()

    async def close(self) -> None:
        """Close all connections and the embedded model's process. May be called again."""
        endpoints = list(self._endpoints.values())
        self._endpoints.clear()
        for endpoint in endpoints:
            await endpoint.close()
        if self.embedded is not None and not self._kept:
            await self.embedded.close()

    async def of(self, route: Route) -> Backend:
        """Find the backend of a route. Raises `AttemptFailed` where there is no model file or no key for it."""
        if route.kind == "openai":
            return await self._endpoint(route)
        if self.embedded is None:
            raise AttemptFailed(
                "model.none", f"route {route.name}: no embedded model is installed", "`loket model pull` installs one"
            )
        return self.embedded

    async def _endpoint(self, route: Route) -> Backend:
        """Connections of one route with one key: a key that was changed in the vault gets its own."""
        place = (route.name, self._key(route))
        if place not in self._endpoints:
            client = await import_client()
            self._endpoints.setdefault(place, client.Endpoint(route, place[1]))
        return self._endpoints[place]

    def _key(self, route: Route) -> str | None:
        if route.key is None:
            return None
        try:
            key = self._secrets.get(route.key)
        except LoketError as error:
            raise AttemptFailed("model.refused_key", error.message, error.remedy or "mend the vault") from None
        if key is None:
            line = command("model", "use", route.name, "--key", route.key)
            raise AttemptFailed(
                "model.refused_key",
                f"route {route.name}: the vault has no secret named {route.key!r}",
                f"`{line or 'loket model use'}` asks for the key and puts it into the vault",
            )
        return key
