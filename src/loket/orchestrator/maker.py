"""Has a model make a plan: it sees the request and the schemas of the tools, never data.

Runs as an operation of its own (`plan:make`) on the asking module's grants: `llm.complete`, then `plan.check`. What is
wrong with a plan goes back to the model at most twice. The prompt is made where the run is started and is part of its
arguments, so a better prompt changes nothing about the runs of today.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from loket.contracts import Host, Json, Refusal
from loket.orchestrator.plan import Problem, parse

MAKE = "plan:make"
"""The reserved operation."""

ATTEMPTS = 3
"""The first, and two with what was wrong."""

_TOKENS = 4_096
"""Most tokens of a plan."""

_SHOWN = 12
"""Problems that go back to the model."""

_LANGUAGE = """\
You turn a request into a plan that a machine carries out with the tools below. Answer with one JSON object, nothing \
else:
{"title": "few words", "steps": [STEP, ...], "answer": {"text": ...}}
STEP is {"id": "name", "call": "TOOL", "args": {...}} and may have "if", "each", "retry", "after".
You do not see data and never make any up. Wherever a value comes from an earlier step, write a reference in its place:
{"$step": "find.memories[0].text"} is a part of the answer of the step "find". A reference stands for a whole \
value; it is never a part of a text.
"if": {"exists": REF}, {"empty": REF}, {"equals": [REF, value]}, {"less": [REF, number]}, {"more": [REF, number]}, \
{"not": IF}, {"all": [IF, ...]}, {"any": [IF, ...]}.
"each": {"in": REF to a list, "most": at most 100, "as": "item"} does the step for each item; its args then say \
{"$step": "item.text"}. Of such a step write name[0].field, or name[*].field for the list of all.
"retry": 1 to 3 for a read that may fail. "after": ["name"] where order matters and no reference says it.
"answer" says what the person gets, with references. Take names, addresses and amounts from the request, word for word.
Use as few steps as possible, and no tool that is not listed.

Example, for "what do I know about my sister? note it in notes/sister.md":
{"title": "Note about the sister", "steps": [{"id": "find", "call": "brain.search", "args": {"query": "sister", \
"limit": 1}}, {"id": "note", "call": "fs.write", "if": {"exists": {"$step": "find.memories[0]"}}, "args": {"path": \
"notes/sister.md", "text": {"$step": "find.memories[0].text"}}}], "answer": {"text": {"$step": \
"find.memories[0].text"}}}

Tools, each with the JSON Schemas of its arguments and of its answer:
"""


def messages(request: str, tools: Sequence[Mapping[str, Json]]) -> list[dict[str, Json]]:
    """What the model is told of a request. `tools` have `name`, `description`, `parameters` and `answer` each."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False, sort_keys=True) for tool in tools)
    return [{"role": "system", "content": _LANGUAGE + listed}, {"role": "user", "content": request}]


def make_plan(host: Host, args: Mapping[str, Json]) -> dict[str, Json]:
    """Make a plan from `messages`. Answers `plan`, `check` (see `check.Report`) and `attempts`.

    Raises `Refusal` (`plan.unmade`) where the last attempt is wrong too, and what the calls raise.
    """
    said: list[dict[str, Json]] = list(args["messages"])
    problems: list[dict[str, Json]] = []
    for attempt in range(1, ATTEMPTS + 1):
        answer = _asked(host, "llm.complete", {"messages": said, "temperature": 0, "max_tokens": _TOKENS})
        plan, report = _looked_at(host, answer["text"])
        if report["ok"]:
            return {"plan": plan, "check": report, "attempts": attempt}
        problems = report["problems"]
        said = [*said, {"role": "assistant", "content": answer["text"]}, {"role": "user", "content": _mend(problems)}]
    first = problems[0]
    raise Refusal(
        "plan.unmade",
        f"the model made no plan that can be run in {ATTEMPTS} attempts; of the last, {first['path']}: "
        f"{first['message']}",
        first["remedy"] or "ask for less at a time, or write the plan yourself: loket plans check FILE",
    )


def _asked(host: Host, capability: str, args: Mapping[str, Json]) -> Any:
    if host.stopped is not None:
        raise host.stopped
    return json.loads(host(capability, json.dumps(args)))


def _looked_at(host: Host, text: str) -> tuple[Json, dict[str, Json]]:
    """The plan in a text, and what its check says. What is no plan at all is not asked about."""
    try:
        value = json.loads(text[text.index("{") : text.rindex("}") + 1])
    except (ValueError, RecursionError):
        wrong = Problem("plan", "the answer is no JSON object", "answer with the JSON object of the plan alone")
        return None, _unsound([wrong])
    plan, problems = parse(value)
    if plan is None:
        return value, _unsound(problems)
    return value, _asked(host, "plan.check", {"plan": value})


def _unsound(problems: Sequence[Problem]) -> dict[str, Json]:
    return {"ok": False, "problems": [problem.as_dict() for problem in problems]}


def _mend(problems: Sequence[Mapping[str, Json]]) -> str:
    lines = [f"- {one['path']}: {one['message']} ({one['remedy']})" for one in problems[:_SHOWN]]
    return "\n".join(["This plan cannot be run:", *lines, "Answer with the whole plan, mended."])
