"""`skill.read` and `skill.file`: what an agent gets of a skill when it has chosen one."""

from collections.abc import Mapping

from loket.contracts import Answer, BadInput, Call, Handler, Refusal
from loket.skills.folder import FILE, Skill
from loket.skills.shelf import Skills


class SkillProvider:
    """Reads approved skills for the agent that calls; their labels go with what they say."""

    id = "skills"

    def __init__(self, skills: Skills) -> None:
        self._skills = skills

    def handlers(self) -> Mapping[str, Handler]:
        """The family's capabilities."""
        return {"skill.read": self._read, "skill.file": self._file}

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""

    def _read(self, call: Call) -> Answer:
        skill, labels = self._found(call)
        files = [one.path for one in skill.files if one.path != FILE]
        return Answer({"text": skill.body, "files": files}, labels)

    def _file(self, call: Call) -> Answer:
        skill, labels = self._found(call)
        try:
            return Answer({"text": skill.text_of(call.args["path"])}, labels)
        except BadInput as error:
            raise Refusal(error.code, error.message, error.remedy) from None

    def _found(self, call: Call) -> tuple[Skill, tuple[str, ...]]:
        try:
            kept = self._skills.find(call.agent, call.args["name"])
        except BadInput as error:
            raise Refusal(error.code, error.message, error.remedy) from None
        if kept.skill is None:
            raise Refusal("skill.unknown", f"{kept.name} cannot be read", None)
        return kept.skill, kept.labels
