"""The table `[channel]` of a manifest: which wire the host keeps for the module, whom it reaches, what the owner says.

A channel module has no capabilities at all: it relays. `hosts` names what the wire may reach; `{field:NAME}` in it
stands for the host that the owner gives in that field (a URL, or a host with or without a port).
"""

import re

from loket.contracts import CHANNEL_WIRES, MAILBOX_FIELDS, ChannelField, ChannelSignature, ChannelSpec, Json
from loket.packages.table import Table

FIELD_IN_HOST = re.compile(r"\{field:([a-z][a-z0-9_]{0,30})\}")
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]{0,250}[a-z0-9_])?(:[0-9]{1,5})?|\{field:[a-z][a-z0-9_]{0,30}\}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,60}")
_MOST_FIELDS = 16
_MOST_HOSTS = 16
_LONGEST = 100_000
_ENDLESS = re.compile(r"(?<!\\)[*+]|\{[0-9]*,\}")
_MOST_ENDLESS = 2
"""Quantifiers without an end in a pattern: the host matches with it, so it may not take for ever."""


def decode_channel(table: Table) -> ChannelSpec:
    """Decode `[channel]`. Raises `BadInput`."""
    wire = table.choice("wire", CHANNEL_WIRES)
    fields = tuple(_field(one) for one in table.tables("field"))
    spec = ChannelSpec(
        wire=wire,
        hosts=_hosts(table, {field.name for field in fields}),
        fields=fields,
        longest=int(table.number("longest", 100, _LONGEST, 4_000, whole=True)),
        signature=_signature(table.table("webhook"), wire, fields) if table.has("webhook") else None,
    )
    table.done()
    _check_fields(table, spec)
    return spec


def _field(table: Table) -> ChannelField:
    field = ChannelField(
        name=table.text("name", _NAME, example="token"),
        label=table.text("label", example="Token of the bot"),
        secret=_flag(table, "secret", default=False),
        required=_flag(table, "required", default=True),
        pattern=table.text("pattern", default="", example="[0-9]+") if table.has("pattern") else "",
        help=table.text("help", default="", example="Where to find it") if table.has("help") else "",
        default=table.text("default", default="", example="https://example.org") if table.has("default") else "",
    )
    table.done()
    if field.secret and field.default:
        raise table.bad("default", "is there for a secret, which everybody would know", "leave it out")
    _check_pattern(table, field.pattern)
    return field


def _flag(table: Table, key: str, *, default: bool) -> bool:
    if not table.has(key):
        return default
    value = _raw(table, key)
    if not isinstance(value, bool):
        raise table.bad(key, "is neither true nor false", f"{key} = true")
    return value


def _raw(table: Table, key: str) -> Json:
    """A value of a type that `Table` has no method for."""
    return table._content[key]  # noqa: SLF001 - of the same part; `values` would pass every unknown key over


def _check_pattern(table: Table, pattern: str) -> None:
    """A pattern without groups and with few endless parts cannot keep the host busy."""
    if "(" in pattern or len(_ENDLESS.findall(pattern)) > _MOST_ENDLESS:
        raise table.bad("pattern", "has groups or more than two endless parts", 'pattern = "[0-9]+:[A-Za-z0-9_-]+"')
    try:
        re.compile(pattern)
    except re.error as error:
        raise table.bad("pattern", f"is no regular expression: {error}", 'pattern = "[0-9]+"') from None


def _hosts(table: Table, fields: set[str]) -> tuple[str, ...]:
    values = _raw(table, "hosts") if table.has("hosts") else []
    if not isinstance(values, list) or not all(isinstance(one, str) and _HOST.fullmatch(one) for one in values):
        raise table.bad(
            "hosts", "is no list of hosts in small letters", 'hosts = ["api.example.org", "{field:server}"]'
        )
    if len(values) > _MOST_HOSTS:
        raise table.bad("hosts", f"has {len(values)} entries", f"name at most {_MOST_HOSTS}")
    for one in values:
        found = FIELD_IN_HOST.fullmatch(one)
        if found is not None and found[1] not in fields:
            remedy = f'[[channel.field]] name = "{found[1]}"'
            raise table.bad("hosts", f"names the field {found[1]}, which is not there", remedy)
    return tuple(values)


def _signature(table: Table, wire: str, fields: tuple[ChannelField, ...]) -> ChannelSignature:
    inner = table.table("signature")
    signature = ChannelSignature(
        kind=inner.choice("kind", ("timestamped", "body")),
        header=inner.text("header", _HEADER, example="Loket-ChannelSignature").lower(),
        secret=inner.text("secret", _NAME, example="secret"),
        within_s=int(inner.number("within_s", 10, 3_600, 300, whole=True)),
    )
    inner.done()
    table.done()
    if wire != "webhook":
        raise table.bad("signature", f"is there, and the wire is {wire}", 'wire = "webhook"')
    if not any(field.name == signature.secret and field.secret and field.required for field in fields):
        remedy = "declare it as [[channel.field]]"
        raise table.bad("signature", "names a secret that is no required secret field", remedy)
    return signature


def _check_fields(table: Table, spec: ChannelSpec) -> None:
    names = [field.name for field in spec.fields]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise table.bad("field", f'names "{twins[0]}" twice', "keep one of them")
    if len(names) > _MOST_FIELDS:
        raise table.bad("field", f"is there {len(names)} times", f"declare at most {_MOST_FIELDS}")
    missing = [name for name in MAILBOX_FIELDS if name not in names] if spec.wire == "mailbox" else []
    if missing:
        raise table.bad("field", f"lacks {', '.join(missing)}, with which the host logs in", "declare them")
    if spec.wire == "webhook" and spec.signature is None:
        raise table.bad(
            "webhook", "is missing: anybody could speak through it", "[channel.webhook] signature = { ... }"
        )
