"""Writes the documents that are derived from code: `python -m loket.documents` (a test fails where one is old)."""

import json
from pathlib import Path

from loket.config import SETTINGS
from loket.contracts import Capability, Constraint, Match
from loket.contracts.catalogue import STOCK


def capabilities() -> str:
    """`docs/capabilities.md`, from the catalogue."""
    families: dict[str, list[Capability]] = {}
    for capability in STOCK:
        families.setdefault(capability.family, []).append(capability)
    parts = [
        "# Capabilities\n",
        "Generated from the catalogue (`src/loket/contracts/catalogue.py`) by `make docs`. A capability that changes",
        "becomes a new version beside the old one; nothing is redefined.\n",
        "An *effect* other than `read` and `private` is written to the journal before it is performed. *Critical*",
        "arguments say who, where, which object or how much. *When uncertain* is what happens after a crash when",
        "nobody knows if the call happened: `repeat` does it again, `dedupe` asks the store, `ask` asks the owner.\n",
    ]
    for family, members in families.items():
        parts.append(f"## {family}\n")
        parts.extend(_section(capability) for capability in members)
    return "\n".join(parts)


_MATCHES = {
    Match.PREFIX: "what `{argument}` may begin with",
    Match.EXACT: "what `{argument}` may be",
    Match.HOST: "the hosts of `{argument}`",
    Match.PROVIDER: "what `{argument}` may use of them",
}


def _narrowed(constraint: Constraint) -> str:
    listed = _MATCHES[constraint.match].format(argument=constraint.argument)
    by = "; the owner alone can add it" if constraint.owner_only else ""
    must = "has to be narrowed" if constraint.required else "can be narrowed"
    return f"a grant {must}: `{constraint.name}` lists {listed}{by}"


def _section(capability: Capability) -> str:
    facts = [
        f"effect `{capability.effect.value}`",
        f"critical: {', '.join(f'`{name}`' for name in capability.critical) or 'none'}",
        f"when uncertain: `{capability.on_uncertain.value}`",
        f"limits: {capability.timeout_s:g} s, arguments {capability.args_kb} KiB, answer {capability.answer_kb} KiB",
    ]
    facts.extend(_narrowed(constraint) for constraint in capability.constraints)
    if capability.waits:
        facts.append("waits: the module is suspended meanwhile")
    if capability.side:
        facts.append("recorded on the run's next row, not on one of its own")
    example = json.dumps(capability.examples[0], ensure_ascii=False) if capability.examples else "{}"
    return "\n".join(
        [
            f"### `{capability.id}`\n",
            f"{capability.summary}.\n",
            *(f"- {fact}" for fact in facts),
            f"\n```python\ncall({json.dumps(capability.id)}, **{example})\n```\n",
            "<details><summary>Schemas</summary>\n",
            f"Arguments:\n\n```json\n{json.dumps(capability.arguments, indent=1)}\n```\n",
            f"Answer:\n\n```json\n{json.dumps(capability.answer, indent=1)}\n```\n",
            "</details>\n",
        ]
    )


def settings() -> str:
    """The table of settings for `docs/operations.md`."""
    rows = [f"| `{s.key}` | {s.kind.__name__} | {s.default} | {s.about} |" for s in SETTINGS]
    return "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows])


def main() -> None:
    """Write the generated documents into `docs/` below the working directory."""
    Path("docs/capabilities.md").write_text(capabilities(), encoding="utf-8")


if __name__ == "__main__":
    main()
