"""What a grant may narrow: checked where the owner or a manifest says it, before anything is granted.

Outside the kernel, which refuses every call under a constraint that it does not know, whatever was checked here.
"""

from collections.abc import Mapping

from loket.contracts import BadInput, Capability, Json


def check_constraints(capability: Capability, constraints: Mapping[str, Json], *, by_owner: bool = True) -> None:
    """Check what an owner or a manifest says. Raises `BadInput` that names the constraint."""
    known = {constraint.name for constraint in capability.constraints if by_owner or not constraint.owner_only}
    for name, texts in constraints.items():
        if name not in known:
            raise BadInput(
                "grant.constraint",
                f"{capability.id} has no constraint {name!r}" + ("" if by_owner else " that a module can ask for"),
                f"it has: {', '.join(sorted(known)) or 'none'}",
            )
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise BadInput(
                "grant.constraint", f"the constraint {name} of {capability.id} must list texts", f'{name} = ["visit/"]'
            )
