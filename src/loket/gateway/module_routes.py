"""The routes of modules, packs and keys. An API token may look; what is installed and trusted is the owner's alone."""

from collections.abc import Mapping
from typing import Any

from loket.gateway import shapes
from loket.gateway.access import Access
from loket.gateway.endpoint import Asked, Endpoint, Services, answered, through, unheard
from loket.gateway.shapes import AGENT, ANY_OBJECT, MAYBE_TEXT, TEXT, TIME, given, listed, taken, text

_LONGEST_PATH = 4096
_AGENT = {"agent": text(64, "the module's id")}
_NAME = {"name": text(255, "its name in the drop box")}
_FLAG: shapes.Schema = {"type": "boolean", "default": False}
_SOURCE = text(_LONGEST_PATH, "a folder or a pack on this machine (an absolute path), or a pack's https address")

_WORD: Mapping[str, shapes.Schema] = {
    "grant": {
        "type": "array",
        "items": text(200, "a capability, or MODULE:CAPABILITY"),
        "maxItems": 1000,
        "description": "what is granted of what it asks for",
    },
    "more": {**_FLAG, "description": "an upgrade may ask for more than the version before"},
    "unsigned": {**_FLAG, "description": "take a pack that nobody signed, this once"},
    "trust": text(64, "the fingerprint of the unknown key that is trusted from now on"),
    "expect": text(64, "`digest` of the offer as it was shown: another one is not installed"),
}

_MODULE = given({"id": TEXT, "version": TEXT, "kind": TEXT, "publisher": TEXT, "wants": {"type": "array"}})
_OFFERED: Mapping[str, Any] = {
    "source": TEXT,
    "digest": {**TEXT, "description": "names exactly what was shown"},
    "trust": {"enum": ["folder", "trusted", "unknown", "unsigned", "revoked", "replaced"]},
    "pack": {"type": ["object", "null"]},
    "modules": {"type": "array", "items": _MODULE, "description": "what each asks for and why, and what is more"},
    "scan": {**ANY_OBJECT, "description": "what the scanner found, or that there is none"},
}
OFFER = given({**_OFFERED, "place": {**TEXT, "description": "where it lies: install it from there"}})
PENDING = given(
    {"name": TEXT, **_OFFERED, "error": {"type": ["object", "null"]}}, *(name for name in _OFFERED if name != "modules")
)
INSTALLED = given({**AGENT["properties"], "modules": {"type": "array", "items": AGENT}})
VERSION = given(
    {
        "version": TEXT,
        "current": {"type": "boolean"},
        "publisher": TEXT,
        "digest": TEXT,
        "signer": {**MAYBE_TEXT, "description": "the fingerprint of the key that signed it"},
        "revoked": {"type": "boolean"},
        "source": TEXT,
        "installed": TIME,
    }
)
KEY = given(
    {
        "publisher": TEXT,
        "fingerprint": TEXT,
        "key": {**TEXT, "description": "the public key, `ed25519:` and Base64"},
        "state": {"enum": ["trusted", "replaced", "revoked"]},
        "own": {"type": "boolean"},
        "at": TIME,
        "modules": {"type": "array", "items": TEXT, "description": "installed modules that it signed"},
    }
)


async def _installed(services: Services, asked: Asked) -> Any:
    return answered(await services.perform("module.install", asked.args, unheard), 201)


async def _approved(services: Services, asked: Asked) -> Any:
    return answered(await services.perform("pending.approve", asked.args, unheard), 201)


ROUTES = (
    Endpoint(
        "POST",
        "/v1/modules/inspect",
        "inspectModules",
        "What a folder, a pack or an address holds and asks for; nothing is changed",
        through("module.inspect"),
        Access.OWNER,
        body=taken({"source": _SOURCE}, "source"),
        answers={200: OFFER},
    ),
    Endpoint(
        "POST",
        "/v1/modules",
        "installModules",
        "Install the modules of a folder, a pack or an address, all of them or none",
        _installed,
        Access.OWNER,
        body=taken(
            {"source": _SOURCE, "named": text(_LONGEST_PATH, "what the versions say it came from"), **_WORD}, "source"
        ),
        answers={201: INSTALLED},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/modules/{agent}/versions",
        "listVersions",
        "The versions of a module that are kept, the newest first",
        through("module.versions"),
        params=_AGENT,
        answers={200: listed("versions", VERSION)},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/modules/{agent}/rollback",
        "rollBack",
        "Go back to the version before, or to the one that is named",
        through("module.rollback"),
        Access.OWNER,
        params=_AGENT,
        body=taken({"version": text(64, "the version; else the one before")}),
        answers={200: AGENT},
        errors=(404,),
    ),
    Endpoint(
        "DELETE",
        "/v1/modules/{agent}",
        "removeModule",
        "Remove a module and its grants; its brain and its journal stay",
        through("module.remove"),
        Access.OWNER,
        params=_AGENT,
        answers={200: given({"agent": TEXT, "removed": {"const": True}, "revoked": {"type": "boolean"}})},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/pending",
        "listPending",
        "What lies in the drop box and waits for the owner",
        through("pending.list"),
        answers={200: listed("pending", PENDING, folder=TEXT)},
    ),
    Endpoint(
        "POST",
        "/v1/pending/{name}",
        "approvePending",
        "Install what waits under a name",
        _approved,
        Access.OWNER,
        params=_NAME,
        body=taken(dict(_WORD)),
        answers={201: INSTALLED},
        errors=(404,),
    ),
    Endpoint(
        "DELETE",
        "/v1/pending/{name}",
        "dismissPending",
        "Remove what waits under a name",
        through("pending.dismiss"),
        Access.OWNER,
        params=_NAME,
        answers={200: given({"name": TEXT, "dismissed": {"const": True}})},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/keys",
        "listKeys",
        "Keys of publishers, and which installed modules each has signed",
        through("keys.list"),
        answers={200: listed("keys", KEY)},
    ),
)
