"""Constraints of grants: whether a call keeps to them.

In the kernel because a constraint that nobody enforces would be a grant without one: an unknown one is a refusal.
"""

from collections.abc import Mapping

from loket.contracts import Capability, Constraint, Json, Match, Refusal, command, host_granted, host_names


def keep(capability: Capability, module: str, constraints: Mapping[str, Json], args: Mapping[str, Json]) -> None:
    """Check a call of a module against its grant's constraints.

    Raises `Refusal` that names the argument, what is allowed, and the line that would allow it.
    """
    rules = {constraint.name: constraint for constraint in capability.constraints}
    for name in constraints.keys() | {rule.name for rule in capability.constraints if rule.required}:
        rule, texts = rules.get(name), constraints.get(name, [])
        value = args.get(rule.argument, "") if rule is not None else ""
        if rule is not None and _matches(rule, value, texts):
            continue
        argument = rule.argument if rule is not None else name
        allowed = f"allows only {' or '.join(texts)}" if texts else f"names no {name}"
        wanted = host_names(str(value))[0] if rule is not None and rule.match is Match.HOST else value
        raise Refusal(
            "grant.constraint",
            f"{argument} is {str(wanted)[:200]!r}, and the grant of {module} for {capability.id} {allowed}",
            command("grants", "allow", module, capability.id, "--add", f"{name}={wanted}"),
            blame="owner",
        )


def _matches(rule: Constraint, value: Json, texts: list[str]) -> bool:
    if rule.match is Match.PROVIDER:
        return True
    if not isinstance(value, str):
        return False
    if rule.match is Match.HOST:
        return host_granted(value, texts)
    return value in texts if rule.match is Match.EXACT else value.startswith(tuple(texts))
