"""Skills: folders with a `SKILL.md` in the format of agentskills.io, told to agents by name and description first.

The owner approves the exact files of one; what has changed since is told to nobody. Nothing in a skill is run, and what
it asks for in `allowed-tools` is shown and never granted.
"""

from loket.skills.folder import Skill, read_skill
from loket.skills.provider import SkillProvider
from loket.skills.shelf import Kept, Skills

__all__ = ["Kept", "Skill", "SkillProvider", "Skills", "read_skill"]
