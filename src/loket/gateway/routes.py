"""The table of routes: requests are checked by it, and `/openapi.json` is made from it."""

import contextlib
import json
from typing import Any

from starlette.responses import Response, StreamingResponse

from loket.contracts import BadInput, Failed, from_dict
from loket.gateway import account_routes as account
from loket.gateway import approval_routes as approval
from loket.gateway import channel_routes as channel
from loket.gateway import hook_routes as hook
from loket.gateway import mcp_routes as mcp
from loket.gateway import module_openapi, shapes
from loket.gateway import module_routes as module
from loket.gateway import openai_routes as openai
from loket.gateway import skill_routes as skill
from loket.gateway.access import Access
from loket.gateway.endpoint import Asked, Endpoint, Services, answered, through, unheard
from loket.gateway.shapes import taken, text
from loket.gateway.sse import EventStream, Work, lines

_MOST_TEXT = 1_000_000
_RUN = {"run": text(64, "the run's id, or the beginning of it")}
_AGENT = {"agent": text(64, "the module's id")}
_CAPABILITY = {"capability": text(128, "the capability's id")}
_LIMIT: shapes.Schema = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20}

_MESSAGE = taken(
    {
        "text": text(_MOST_TEXT, "what is said"),
        "conversation": {
            **text(200, "messages of one conversation are answered in order; no control characters"),
            "default": "main",
        },
        "message": text(200, "an id of your own: sent twice, it is answered once"),
    },
    "text",
)
_GRANT = taken(
    {
        **_AGENT,
        **_CAPABILITY,
        "constraints": {"type": "object", "description": "narrows it: name to list of texts"},
        "add": {"type": "boolean", "default": False, "description": "widen the grant that is there"},
    },
    "agent",
    "capability",
)


async def _health(services: Services, _asked: Asked) -> Response:
    ready = services.ready()
    return answered({"status": "ok" if ready else "starting"}, 200 if ready else 503)


async def _describe(services: Services, _asked: Asked) -> Response:
    return answered(services.document())


async def _operation(services: Services, asked: Asked) -> Response:
    """The operation goes on when the reader leaves: what was accepted is answered."""
    work = Work(services.perform, asked.params["name"], asked.body)
    return StreamingResponse(lines(work), media_type="application/x-ndjson")


async def _send(services: Services, asked: Asked) -> Response:
    if not asked.body.get("conversation", "").isprintable():
        raise BadInput(
            "arguments.conversation",
            "the name of the conversation holds control characters or breaks of lines",
            'name it with letters, digits and blanks, such as {"conversation": "main"}',
        )
    if "text/event-stream" not in asked.request.headers.get("accept", ""):
        sent = await services.perform("messages.send", _sent(asked), unheard)
        await _linked(services, asked, sent["run"])
        return answered(sent, 202, {"Location": f"/v1/runs/{sent['run']}"})
    work = services.start(Work(services.perform, "messages.send", {**_sent(asked), "watch": True}))
    return await _streamed(services, asked, work, looks=False)


def _sent(asked: Asked) -> dict[str, Any]:
    """The arguments of a message; a program's ids are its own: no message of a schedule or a channel has such a one."""
    visitor = asked.visitor
    if visitor is None or visitor.kind != "token":
        return asked.args
    args = {**asked.args, "program": True}
    return {**args, "message": f"token:{visitor.name}:{args['message']}"} if "message" in args else args


async def _linked(services: Services, asked: Asked, run: str) -> None:
    """Note from which trace a message came; a header that names none is passed over, as its standard wants."""
    given = asked.request.headers.get("traceparent", "")
    if given:
        with contextlib.suppress(BadInput):
            await services.perform("runs.link", {"run": run, "traceparent": given}, unheard)


async def _watch(services: Services, asked: Asked) -> Response:
    last = asked.request.headers.get("last-event-id", "")
    after = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0  # noqa: PLR2004 - digits of 2**53
    work = services.start(Work(services.perform, "runs.watch", asked.args, after))
    return await _streamed(services, asked, work, looks=True)


async def _streamed(services: Services, asked: Asked, work: Work, *, looks: bool) -> Response:
    """The stream; an operation that fails before its first event is an error like any other."""
    first = await work.mailbox.get()
    if work.error is not None and (first is None or first[1] == "error"):
        raise work.error
    if first is not None and first[1] == "accepted":
        await _linked(services, asked, json.loads(first[2])["run"])
    visitor = asked.visitor
    if first is None or visitor is None:
        raise Failed("gateway.stopping", "the server stops", "loket up, then try again", blame="owner")

    async def alive() -> bool:
        return await services.doorkeeper.still(visitor)

    return EventStream(work, first, alive, looks=looks)


async def _one_agent(services: Services, asked: Asked) -> Response:
    value, wanted = await services.perform("agents", {}, unheard), asked.params["agent"]
    for broken in value["unreadable"]:
        if broken["id"] == wanted:
            raise from_dict(broken["error"])
    found = [agent for agent in value["agents"] if agent["id"] == wanted]
    if not found:
        raise BadInput("agent.unknown", f"there is no agent {wanted!r}", "GET /v1/agents")
    return answered(found[0])


async def _one_capability(services: Services, asked: Asked) -> Response:
    value = await services.perform("caps", {"name": asked.params["id"]}, unheard)
    return answered(value["capabilities"][0])


async def _memories(services: Services, asked: Asked) -> Response:
    args = {"query": "", **asked.args}
    return answered(await services.perform("brain.search", args, unheard))


ROUTES = (
    Endpoint(
        "GET",
        "/healthz",
        "health",
        "Whether messages are accepted",
        _health,
        Access.OPEN,
        answers={200: shapes.HEALTH, 503: shapes.HEALTH},
    ),
    Endpoint(
        "GET",
        "/openapi.json",
        "describe",
        "This description",
        _describe,
        Access.OPEN,
        answers={200: shapes.ANY_OBJECT},
    ),
    *account.ROUTES,
    Endpoint(
        "POST",
        "/v1/operations/{name}",
        "performOperation",
        "An operation of the command line",
        _operation,
        Access.HOME,
        params={"name": text(64, "the operation's name")},
        body=shapes.ANY_OBJECT,
        loose=True,
        answers={200: None},
        stream=shapes.LINES,
    ),
    Endpoint(
        "POST",
        "/v1/agents/{agent}/messages",
        "sendMessage",
        "Send a message; with `Accept: text/event-stream` the answer is the run's events until its end",
        _send,
        params=_AGENT,
        body=_MESSAGE,
        answers={202: shapes.ACCEPTED},
        stream=shapes.EVENTS,
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/runs",
        "listRuns",
        "The newest runs first",
        through("runs.page"),
        query={
            "agent": text(64, "only this agent's"),
            "status": shapes.STATUS,
            "limit": _LIMIT,
            "before": text(64, "a run's id: only those before it"),
        },
        answers={200: shapes.RUNS},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/runs/{run}",
        "showRun",
        "A run with its journal rows",
        through("runs.show"),
        params=_RUN,
        answers={200: shapes.RUN_SHOWN},
        errors=(404, 409),
    ),
    Endpoint(
        "GET",
        "/v1/runs/{run}/events",
        "watchRun",
        "Events of a run from now on, and its end",
        _watch,
        params=_RUN,
        stream=shapes.EVENTS,
        errors=(404, 409),
    ),
    Endpoint(
        "POST",
        "/v1/runs/{run}/stop",
        "stopRun",
        "End an unfinished run",
        through("runs.stop"),
        params=_RUN,
        answers={200: shapes.STOPPED},
        errors=(404, 409),
    ),
    Endpoint(
        "POST",
        "/v1/runs/{run}/verify",
        "verifyRun",
        "Check the journal's chain and replay the run",
        through("runs.verify"),
        params=_RUN,
        answers={200: shapes.VERIFIED},
        errors=(404, 409),
    ),
    Endpoint("GET", "/v1/agents", "listAgents", "Installed modules", through("agents"), answers={200: shapes.AGENTS}),
    Endpoint(
        "GET",
        "/v1/agents/{agent}",
        "showAgent",
        "An installed module",
        _one_agent,
        params=_AGENT,
        answers={200: shapes.AGENT},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/agents/{agent}/memories",
        "searchMemories",
        "What an agent remembers, best first",
        _memories,
        params=_AGENT,
        query={"query": text(4000, "words; left out, the newest", 0), "limit": {**_LIMIT, "maximum": 200}},
        answers={200: shapes.MEMORIES},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/capabilities",
        "listCapabilities",
        "The catalogue",
        through("caps"),
        answers={200: shapes.CAPABILITIES},
    ),
    Endpoint(
        "GET",
        "/v1/capabilities/{id}",
        "showCapability",
        "A capability with its schemas",
        _one_capability,
        params={"id": _CAPABILITY["capability"]},
        answers={200: shapes.CAPABILITY_SHOWN},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/grants",
        "listGrants",
        "Who may do what",
        through("grants.list"),
        query=_AGENT,
        answers={200: shapes.GRANTS},
    ),
    Endpoint(
        "POST",
        "/v1/grants",
        "allow",
        "Grant a capability to a module, or widen its grant",
        through("grants.allow"),
        Access.OWNER,
        body=_GRANT,
        answers={200: shapes.GRANT},
        errors=(404,),
    ),
    Endpoint(
        "DELETE",
        "/v1/grants/{agent}/{capability}",
        "revoke",
        "Take a grant back",
        through("grants.revoke"),
        Access.OWNER,
        params={**_AGENT, **_CAPABILITY},
        answers={200: shapes.REVOKED},
        errors=(404,),
    ),
    *approval.ROUTES,
    *hook.ROUTES,
    *channel.ROUTES,
    *mcp.ROUTES,
    *module.ROUTES,
    *module_openapi.ROUTES,
    *skill.ROUTES,
    *openai.ROUTES,
    Endpoint(
        "GET",
        "/v1/status",
        "status",
        "Version, home, agents, unfinished runs",
        through("status"),
        answers={200: shapes.STATE},
    ),
)
