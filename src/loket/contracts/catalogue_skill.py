"""The catalogue's skills: instructions that the owner approved, read when an agent chooses one by its description."""

from loket.contracts.capability import Capability, Constraint, Effect, Match
from loket.contracts.shapes import closed, words

_NAME = words(130, about="the skill's name, as the list of skills has it")
_TEXT = {"type": "string", "description": "instructions of whoever wrote the skill"}

SKILLS: tuple[Capability, ...] = (
    Capability(
        id="skill.read",
        summary="Read a skill's instructions; its description says when they help",
        effect=Effect.READ,
        arguments=closed({"name": _NAME}, "name"),
        answer=closed(
            {
                "text": _TEXT,
                "files": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "paths of its other files, for `skill.file`; scripts among them are never run",
                },
            },
            *("text", "files"),
        ),
        constraints=(Constraint("skills", "name", Match.EXACT),),
        examples=({"name": "travel-expenses"},),
    ),
    Capability(
        id="skill.file",
        summary="Read a text file of a skill that its instructions refer to",
        effect=Effect.READ,
        arguments=closed({"name": _NAME, "path": words(200, about="as `skill.read` lists it")}, "name", "path"),
        answer=closed({"text": _TEXT}, "text"),
        constraints=(Constraint("skills", "name", Match.EXACT),),
        examples=({"name": "travel-expenses", "path": "references/rates.md"},),
    ),
)
