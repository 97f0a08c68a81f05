"""Inbound webhooks: whether a request was made by somebody who has the secret, and not long ago.

One header says both: `Loket-Signature: t=1795000000,v1=HEX`, with `t` in seconds since 1970 UTC and `v1` the
HMAC-SHA256 (RFC 2104) with the secret over the bytes `t`, a full stop and the body. Several `v1` may stand there, so
that a secret can be exchanged. The time is signed too, so a request that was overheard is worth nothing once it is old;
one that is sent again before that is the same message.
"""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass

from loket.contracts import BadInput, Json, Refusal

HEADER = "Loket-Signature"

WINDOW_S = 300
"""Seconds that the sender's clock may differ, and that a request may be on its way."""

MOST = 256 << 10
"""Bytes of a body."""

_MOST_SIGNATURES = 4


@dataclass(frozen=True, slots=True)
class Signed:
    """What a header says: a time in seconds since 1970 UTC, and signatures (hex)."""

    at: int
    signatures: tuple[str, ...]


def sign(secret: str, at: int, body: bytes) -> str:
    """The header for a body that is sent at a time (seconds since 1970 UTC)."""
    return f"t={at},v1={_mac(secret, at, body)}"


def _mac(secret: str, at: int, body: bytes) -> str:
    return hmac.digest(secret.encode(), b"%d." % at + body, "sha256").hex()


def verify(header: str, body: bytes, secret: str | None, now: float) -> Signed:
    """Check a request. Without a secret there is no such hook, which is answered like a wrong signature.

    Raises `Refusal` (`hook.signature`, `hook.old`), `BadInput` (`hook.size`).
    """
    if len(body) > MOST:
        raise BadInput("hook.size", f"the body has more than {MOST >> 10} KiB", "send less")
    said = _read(header)
    right = _mac(secret or "none", said.at, body)
    sound = [hmac.compare_digest(right, one) for one in said.signatures]
    if secret is None or not any(sound):
        raise _wrong("no signature in it is the one of this body with the hook's secret")
    if abs(now - said.at) > WINDOW_S:
        raise Refusal(
            "hook.old",
            f"the request was signed {now - said.at:.0f} s ago; {WINDOW_S} s are allowed",
            "sign it when it is sent, and set the sender's clock",
            blame="owner",
        )
    return said


def _read(header: str) -> Signed:
    times, signatures = [], []
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isascii() and value.isdigit() and len(value) <= 12:  # noqa: PLR2004 - digits of a time
            times.append(int(value))
        elif name == "v1" and value.isascii():
            signatures.append(value)
    if len(times) != 1 or not 0 < len(signatures) <= _MOST_SIGNATURES:
        raise _wrong(f"the header {HEADER} is missing, or is none")
    return Signed(times[0], tuple(signatures))


def _wrong(why: str) -> Refusal:
    return Refusal(
        "hook.signature",
        f"the request is not accepted: {why}",
        f"{HEADER}: t=SECONDS,v1=HMAC-SHA256 of `SECONDS.BODY` in hex; loket schedule secret ID makes a new secret",
        blame="owner",
    )


def key_of(signed: Signed, body: bytes) -> str:
    """What names a request: the same time and the same body are the same message."""
    return f"hook:{signed.at}:{hashlib.sha256(body).hexdigest()[:32]}"


def payload_of(body: bytes) -> Json:
    """A body as a value: JSON where it is that, else a text, else `{"base64": ...}`."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
    try:
        value = json.loads(text, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # 1e999 is read as infinite
    except (ValueError, RecursionError):
        return text
    return value


def _no_number(name: str) -> Json:
    raise ValueError(f"{name} is no number of JSON")
