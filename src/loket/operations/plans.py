"""Plans: what an owner makes, looks at, runs and keeps for an agent. Each goes through the counter as any call does."""

from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, from_dict
from loket.operations.table import Emit, operation


async def _direct(system: Loket, agent: str, capability: str, **args: Any) -> dict[str, Any]:
    system.installed.module(agent)
    ending = await system.direct(agent, capability, args)
    if ending.answer is None:
        raise from_dict(ending.error or {})
    return dict(ending.answer)


async def _plan(system: Loket, agent: str, plan: dict[str, Any] | None, name: str | None) -> dict[str, Any]:
    """The plan itself, or the saved one of this name. Raises `BadInput` unless one of them is given."""
    if (plan is None) == (name is None):
        raise BadInput("plans.which", "give a plan, or the name of a saved one", "loket plans run main morning")
    if plan is not None:
        return plan
    shown = await _direct(system, agent, "plan.show", name=name)
    return dict(shown["plan"])


@operation("plans.list")
async def plans_list(system: Loket, _emit: Emit, *, agent: str) -> dict[str, Any]:
    """The saved plans of an agent."""
    return await _direct(system, agent, "plan.list")


@operation("plans.show")
async def plans_show(system: Loket, _emit: Emit, *, agent: str, name: str) -> dict[str, Any]:
    """A saved plan."""
    return await _direct(system, agent, "plan.show", name=name)


@operation("plans.make")
async def plans_make(system: Loket, _emit: Emit, *, agent: str, request: str) -> dict[str, Any]:
    """Have the model make a plan from a request: `plan`, `check`, `attempts`, `run`."""
    return await _direct(system, agent, "plan.make", request=request)


@operation("plans.check")
async def plans_check(
    system: Loket, _emit: Emit, *, agent: str, plan: dict[str, Any] | None = None, name: str | None = None
) -> dict[str, Any]:
    """What a plan would do, what is wrong with it, and what the owner would be asked."""
    return await _direct(system, agent, "plan.check", plan=await _plan(system, agent, plan, name))


@operation("plans.run")
async def plans_run(
    system: Loket, _emit: Emit, *, agent: str, plan: dict[str, Any] | None = None, name: str | None = None
) -> dict[str, Any]:
    """Run a plan and wait for it: `run`, `status`, `steps`, `answer`, `error`."""
    if (plan is None) == (name is None):
        await _plan(system, agent, plan, name)
    return await _direct(system, agent, "plan.run", **({"plan": plan} if plan is not None else {"name": name}))


@operation("plans.save")
async def plans_save(system: Loket, _emit: Emit, *, agent: str, name: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Save a plan under a name; from then on it is the owner's."""
    report = await _direct(system, agent, "plan.check", plan=plan)
    if not report["ok"]:
        wrong = report["problems"][0]
        raise BadInput("plan.invalid", f"{wrong['path']}: {wrong['message']}", wrong["remedy"])
    return await _direct(system, agent, "plan.save", name=name, plan=plan)


@operation("plans.remove")
async def plans_remove(system: Loket, _emit: Emit, *, agent: str, name: str) -> dict[str, Any]:
    """Remove a saved plan: `existed`."""
    return await _direct(system, agent, "plan.remove", name=name)
