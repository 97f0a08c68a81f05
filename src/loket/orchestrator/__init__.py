"""The orchestrator: plans as data, checked as a whole, and run step by step through the counter."""

from loket.orchestrator.check import Around, Foreseen, Report, check, most_calls
from loket.orchestrator.guest import NATIVE, PlanGuest
from loket.orchestrator.interpreter import RUN, Retry, retry_of, run_plan
from loket.orchestrator.maker import MAKE, make_plan, messages
from loket.orchestrator.plan import Plan, Problem, Step, parse, plan_of, refusal
from loket.orchestrator.reference import references

__all__ = [
    "MAKE",
    "NATIVE",
    "RUN",
    "Around",
    "Foreseen",
    "Plan",
    "PlanGuest",
    "Problem",
    "Report",
    "Retry",
    "Step",
    "check",
    "make_plan",
    "messages",
    "most_calls",
    "parse",
    "plan_of",
    "references",
    "refusal",
    "retry_of",
    "run_plan",
]
