"""What is redacted for whom: the owner's settings under `[redaction]`."""

import re
from collections.abc import Collection, Mapping, Sequence

from loket.contracts import BadInput, Json
from loket.redaction.found import KINDS

READERS: Mapping[str, frozenset[str]] = {
    "channel": frozenset({"secret", "vault", "canary", "card", "national-id"}),
    "model": frozenset({"secret", "vault", "card", "iban", "national-id"}),
    "network": frozenset({"secret", "vault", "canary", "card", "iban", "national-id"}),
}
"""Who reads what leaves, and what is redacted for them where no setting says otherwise.

`channel`: people, over answers and messages. `model`: language models that run elsewhere; canaries are in the
instructions that a model is sent, so they are not looked for there. `network`: requests and everything else.
Telephone numbers and e-mail addresses are off, since ordinary work consists of them.
"""

_REGION = re.compile(r"[A-Z]{2}")


def checked(kinds: Collection[str], regions: Sequence[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The kinds and regions as they are used. Raises BadInput for one that does not exist."""
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise BadInput(
            "redaction.kind", f"there is no kind of data {unknown[0]!r} to redact", f"choose from {', '.join(KINDS)}"
        )
    for region in regions:
        if not _REGION.fullmatch(region):
            raise BadInput("redaction.region", f"{region!r} is no country's code", 'regions = ["NL"]')
    return frozenset(kinds), tuple(dict.fromkeys(regions))


def kinds_for(table: Mapping[str, Json]) -> dict[str, frozenset[str]]:
    """The kinds for each reader, by the table `[redaction]`: `channel`, `model`, `network` are lists of kinds.

    A reader that is left out keeps its default. Raises BadInput for unknown keys and kinds.
    """
    unknown = sorted(set(table) - set(READERS) - {"regions"})
    if unknown:
        raise BadInput(
            "redaction.setting",
            f"[redaction] has no setting {unknown[0]!r}",
            f"choose from {', '.join(READERS)}, regions",
        )
    return {reader: _kinds(reader, table[reader]) if reader in table else kinds for reader, kinds in READERS.items()}


def regions_of(table: Mapping[str, Json]) -> tuple[str, ...]:
    """The countries whose telephone numbers count without a country's code. Raises BadInput."""
    return checked((), _texts("regions", table.get("regions", [])))[1]


def _kinds(reader: str, listed: Json) -> frozenset[str]:
    return checked(_texts(reader, listed), ())[0]


def _texts(key: str, listed: Json) -> list[str]:
    if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
        return listed
    raise BadInput("redaction.setting", f"redaction.{key} is no list of texts", f'{key} = ["card"]')
