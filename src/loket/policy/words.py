"""What rules can say: the attributes of `context`, each with its type in Cedar and what it means.

Documents, the schema that rules are checked against and the keys of the cache are made from this one table.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Word(NamedTuple):
    """An attribute: `type` is Cedar's, or `text` and `texts` for a record with one text, or one set, an argument."""

    type: str
    meaning: str


CONTEXT: Mapping[str, Word] = {
    "direct": Word("Bool", "no module: whoever asks made the call themselves, and no grant was needed"),
    "effect": Word("String", "the capability's effect: `read`, `egress` ..."),
    "family": Word("String", "the part of the capability's id before the dot"),
    "worst": Word(
        "String",
        "the worst origin among the critical arguments: `named`, `selected`, `trusted`, `bounded`, `untrusted`;"
        " `unknown` where one has not been established, `none` where there is none",
    ),
    "origins": Word("text", "the origin of each critical argument that was established"),
    "needed": Word(
        "String",
        "whether the owner's words ask for such a capability: `yes` (or nothing is known), `no`, `delegated` where they"
        " hand the task to somebody else's text",
    ),
    "values": Word("text", "each critical argument as text; what is no text, as canonical JSON"),
    "hosts": Word("Set<String>", "the hosts of the web addresses among the critical arguments"),
    "labels": Word("texts", "the labels of each argument"),
    "carried": Word("Set<String>", "the kinds of all labels of the arguments: the part before a colon"),
    "exposed": Word("Set<String>", "the labels of all that the run has seen"),
    "seen": Word(
        "Set<String>",
        "the kinds of these and of what the arguments carry: `private`, `host`, `mcp`, `sender`, `confidential` ...",
    ),
    "agent": Word("String", "the agent whose stores the call is about"),
    "operation": Word("String", "the operation with which the run began"),
    "conversation": Word("String", "the conversation of the run"),
    "depth": Word("Long", "runs that asked for each other, this one included"),
    "asked": Word("Bool", "whether the run began with words that the owner typed"),
    "hour": Word("Long", "hour of the day, 0 to 23, of this machine's clock"),
    "weekday": Word("Long", "1 (Monday) to 7"),
    "today": Word("Long", "the date as a number: 20261121"),
    "left_tokens": Word("Long", "tokens that are left of the budget"),
    "left_cents": Word("Long", "US cents that are left of the budget"),
}

EFFECT_GROUP = "effect:"
"""Begins the names of the groups of capabilities with one effect: `Action::"effect:egress"`."""

PRINCIPALS: Mapping[str, str] = {
    "owner": "Owner",
    "user": "User",
    "agent": "Agent",
    "client": "Client",
    "sender": "Sender",
    "host": "Host",
}
"""Kinds of principals and their types in Cedar."""
