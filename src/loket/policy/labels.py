"""Plain labels: every argument carries all that the run has seen; the finer ones are established outside the policy."""

from collections.abc import Mapping

from loket.contracts import Answer, Call, Capability, Facts, Json, Labels, RunView, join_labels


class PlainLabeller:
    """Labels without looking into values, and no findings: for kernels that are put together without provenance."""

    def of_call(
        self, run: RunView, capability: Capability, given: Mapping[str, Json], args: Mapping[str, Json]
    ) -> Facts:
        del capability, given  # whoever looks at them finds out more
        return Facts(dict.fromkeys(args, run.exposed), {})

    def of_answer(self, call: Call, capability: Capability, answer: Answer) -> Labels:
        return join_labels((f"capability:{capability.id}",), answer.labels, *call.derived.values())
