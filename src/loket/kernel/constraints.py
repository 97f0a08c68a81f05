"""Constraints of grants: what they may say, and whether a call keeps to them.

In the kernel because a constraint that nobody enforces would be a grant without one: an unknown one is a refusal.
"""

from collections.abc import Mapping

from loket.contracts import BadInput, Capability, Json, Refusal


def check_constraints(capability: Capability, constraints: Mapping[str, Json]) -> None:
    """Check what an owner or a manifest says. Raises `BadInput` that names the constraint."""
    known = {constraint.name for constraint in capability.constraints}
    for name, texts in constraints.items():
        if name not in known:
            raise BadInput(
                "grant.constraint",
                f"{capability.id} has no constraint {name!r}",
                f"it has: {', '.join(sorted(known)) or 'none'}",
            )
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise BadInput(
                "grant.constraint", f"the constraint {name} of {capability.id} must list texts", f'{name} = ["visit/"]'
            )


def keep(capability: Capability, constraints: Mapping[str, Json], args: Mapping[str, Json]) -> None:
    """Check a call against its grant's constraints. Raises `Refusal` that names the argument and what is allowed."""
    rules = {constraint.name: constraint.argument for constraint in capability.constraints}
    for name, texts in constraints.items():
        argument = rules.get(name)
        value = args.get(argument, "") if argument is not None else None
        if not isinstance(value, str) or not value.startswith(tuple(texts)):
            raise Refusal(
                "grant.constraint",
                f"the grant for {capability.id} allows only {argument or name} that begins with {' or '.join(texts)}",
                f"loket grants list shows it; the owner may widen it with loket grants allow ... {capability.id}",
                blame="owner",
            )
