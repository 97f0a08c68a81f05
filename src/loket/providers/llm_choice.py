"""Which models there are: those that the settings name; without settings, what is found on this machine."""

from collections.abc import Mapping
from pathlib import Path

from loket.contracts import Json
from loket.providers.llm_discover import default_settings, discover, embedded_path
from loket.providers.llm_embedded import EmbeddedModel
from loket.providers.llm_settings import EMBEDDED, LlmSettings, parse_routes


async def model_settings(home: Path, models: Mapping[str, Json]) -> LlmSettings:
    """The routes of the settings' table `[models]`; of an empty one, what is found. Raises `BadInput`."""
    return parse_routes(models) if models else default_settings(home, await discover())


def embedded_model(home: Path, settings: LlmSettings, log: Path) -> EmbeddedModel | None:
    """The embedded model that these settings mean, not started yet; it writes to `log`."""
    path = embedded_path(home, settings)
    if path is None:
        return None
    context = next((route.context for route in settings.routes if route.kind == "embedded"), EMBEDDED.context)
    return EmbeddedModel(path, context=context, log=log)
