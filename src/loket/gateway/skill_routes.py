"""The routes of skills and of slash commands. A token may look; what agents are told is decided by the owner alone."""

from starlette.responses import Response

from loket.gateway.access import Access
from loket.gateway.endpoint import Asked, Endpoint, Services, answered, through, unheard
from loket.gateway.shapes import COUNT, MAYBE_TEXT, TEXT, given, listed, taken, text

_AGENT = {"agent": text(64, "of this agent")}
_NAME = {"name": text(64, "the skill's name")}
SKILL = given(
    {
        "name": TEXT,
        "agent": {**MAYBE_TEXT, "description": "whose it is; null: everybody's"},
        "place": TEXT,
        "state": {"enum": ["approved", "changed", "broken"]},
        "labels": {"type": "array", "items": TEXT},
        "description": TEXT,
        "wants": {**TEXT, "description": "`allowed-tools`: asked for, and never granted by that"},
        "digest": {**TEXT, "description": "names exactly these files"},
        "error": {"type": ["object", "null"]},
    }
)
SHOWN = given(
    {**SKILL["properties"], "text": TEXT, "files": {"type": "array", "items": given({"path": TEXT, "size": COUNT})}}
)
COMMAND = given({"name": TEXT, "usage": TEXT, "summary": TEXT, "owner": {"type": "boolean"}, "module": MAYBE_TEXT})


async def _added(services: Services, asked: Asked) -> Response:
    return answered(await services.perform("skills.add", asked.args, unheard), 201)


ROUTES = (
    Endpoint(
        "GET",
        "/v1/commands",
        "listCommands",
        "Slash commands that can be sent as a message",
        through("slash.list"),
        answers={200: listed("commands", COMMAND)},
    ),
    Endpoint(
        "GET",
        "/v1/skills",
        "listSkills",
        "Skills with their state",
        through("skills.list"),
        query=_AGENT,
        answers={200: listed("skills", SKILL)},
    ),
    Endpoint(
        "GET",
        "/v1/skills/{name}",
        "showSkill",
        "A skill's instructions and files",
        through("skills.show"),
        params=_NAME,
        query=_AGENT,
        answers={200: SHOWN},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/skills",
        "addSkill",
        "Copy a skill from a folder of this machine into the home, and approve it as it is",
        _added,
        Access.OWNER,
        body=taken(
            {
                "folder": text(4096, "an absolute path"),
                **_AGENT,
                "own": {"type": "boolean", "default": False, "description": "its words are the owner's"},
            },
            "folder",
        ),
        answers={201: given({**SKILL["properties"], "unread": {"type": "array", "items": TEXT}})},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/skills/{name}/approve",
        "approveSkill",
        "Approve a skill as it is now",
        through("skills.approve"),
        Access.OWNER,
        params=_NAME,
        body=taken({**_AGENT, "digest": text(64, "only if it is still what had this digest")}),
        answers={200: SKILL},
        errors=(404,),
    ),
    Endpoint(
        "DELETE",
        "/v1/skills/{name}",
        "removeSkill",
        "Take a skill out of the home",
        through("skills.remove"),
        Access.OWNER,
        params=_NAME,
        query=_AGENT,
        answers={200: given({"name": TEXT, "agent": MAYBE_TEXT, "removed": {"const": True}})},
        errors=(404,),
    ),
)
