"""What a channel may reach and what it knows: the module's manifest with what the owner has set."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from loket.contracts import BadInput, ChannelField, ChannelSpec, Failed, Secrets, command, host_names
from loket.packages.manifest_channel import FIELD_IN_HOST
from loket.providers.net_headers import Held
from loket.store.channels import Channel

_LONGEST = 500
_PLACE = re.compile(r"[A-Za-z0-9._:\[\]-]{1,253}:[0-9]{1,5}")
_MAIL_PORTS = {"imaps": 993, "imap": 143, "smtps": 465, "smtp": 587}
SECRET = re.compile(r"\{\{secret:([a-z][a-z0-9_]{0,30})\}\}")
"""How a module asks for a secret of its own channel: by the name of the field."""


def vault_name(channel: str, field: str) -> str:
    """Under which name the vault keeps a secret field."""
    return f"channel.{channel}.{field}"


@dataclass(frozen=True, slots=True)
class Settings:
    """A channel with its module's declaration."""

    channel: Channel
    spec: ChannelSpec

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that the wire may reach, those that fields name filled in."""
        found = [self._host(one) for one in self.spec.hosts]
        return tuple(one for one in found if one)

    def _host(self, declared: str) -> str:
        field = FIELD_IN_HOST.fullmatch(declared)
        return declared if field is None else host_of(self.fields.get(field[1], ""))

    @property
    def fields(self) -> dict[str, str]:
        """The values that are no secrets: the owner's, or the defaults."""
        plain = [field for field in self.spec.fields if not field.secret]
        given = {field.name: self.channel.fields.get(field.name, field.default) for field in plain}
        return {name: value for name, value in given.items() if value}

    def secrets(self, vault: Secrets) -> Held:
        """The secret fields by name. Raises `Failed` where the vault lacks one that is required."""
        values = {}
        for field in self.spec.fields:
            value = vault.get(vault_name(self.channel.name, field.name)) if field.secret else None
            if value is not None:
                values[field.name] = value
            elif field.secret and field.required:
                raise Failed(
                    "channel.secret",
                    f"the vault has no {field.label} of the channel {self.channel.name}",
                    command("channels", "set", self.channel.name, field.name),
                    blame="owner",
                )
        return Held(values)

    def there(self, vault: Secrets) -> list[str]:
        """The names of the secret fields that have a value."""
        kept = set(vault.names())
        return [
            field.name
            for field in self.spec.fields
            if field.secret and vault_name(self.channel.name, field.name) in kept
        ]


def host_of(value: str) -> str:
    """The host that a field names, as a grant has it: of a URL, or as it stands (`host`, `host:port`)."""
    if "://" not in value:
        return value.lower()
    parts = urlsplit(value)
    if parts.scheme in ("http", "https"):
        return host_names(value)[0]
    port = f":{_MAIL_PORTS[parts.scheme]}" if parts.scheme in _MAIL_PORTS and ":" not in parts.netloc else ""
    return host_names(f"https://{parts.netloc}{port}")[0]


def check_fields(spec: ChannelSpec, given: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Check what the owner says of a channel; `known` are values that are there already. Raises `BadInput`."""
    names = {field.name: field for field in spec.fields}
    for name, value in given.items():
        if name not in names:
            raise BadInput("channel.field", f"there is no field {name}", f"fields: {', '.join(names) or 'none'}")
        _check_value(names[name], value)
    for field in spec.fields:
        if field.required and not field.default and not given.get(field.name) and not known.get(field.name):
            raise BadInput(
                "channel.field", f"{field.label} ({field.name}) is missing", field.help or f"--set {field.name}=..."
            )


def _check_value(field: ChannelField, value: str) -> None:
    if len(value) > _LONGEST or not value.isprintable() or value != value.strip():
        raise BadInput("channel.field", f"{field.name} is too long, or no single line", field.help or None)
    if field.pattern and value and not re.fullmatch(field.pattern, value):
        shown = "it" if field.secret else repr(value)
        raise BadInput("channel.field", f"{field.name}: {shown} does not look like one", field.help or field.pattern)


def check_places(places: tuple[str, ...]) -> None:
    """Check what the owner lists as places of this machine or network. Raises `BadInput`."""
    for place in places:
        if not _PLACE.fullmatch(place):
            raise BadInput("channel.private", f"{place!r} is no HOST:PORT", "--private 127.0.0.1:8008")
