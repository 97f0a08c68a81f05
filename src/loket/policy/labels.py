"""Plain labels: a value carries where it came from; an answer adds its capability to what the run has seen."""

from collections.abc import Mapping

from loket.contracts import Answer, Capability, Json, Labels, join_labels


class PlainLabeller:
    """Every argument carries all that the run has seen (`exposed`); finer labels are a matter of the gateway."""

    def of_args(self, args: Mapping[str, Json], exposed: Labels) -> Mapping[str, Labels]:
        return dict.fromkeys(args, exposed)

    def of_answer(self, capability: Capability, answer: Answer, exposed: Labels) -> Labels:
        return join_labels(exposed, answer.labels, (f"capability:{capability.id}",))
