"""Arguments that mean harm: surrogates, NUL, very long, very deep, of other types, and JSON that is none."""

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

from loket.contracts import Json

_TEXTS = (
    *(
        "",
        " ",
        "\n",
        ".",
        "..",
        "/",
        "\\",
        "\x00",
        "a\x00b",
        "\u202e\ufeff",
        "\ud800",
        "🙂" * 300,
        "é" * 255,
        "é" * 256,
    ),
    *(
        "../../../../etc/passwd",
        "a/../../b",
        "/etc/passwd",
        "con:",
        "http://[::1",
        "file:///etc/passwd",
        "http://a@b:99999",
    ),
    *(
        "' OR 1=1; --",
        '"* AND (',
        "NEAR(",
        "%s%n%00",
        "${x}{{secret:a}}",
        "9" * 400,
        "-1",
        "nan",
        "2026-02-30T25:61:00Z",
    ),
    *("x" * 500, "x " * 2_000, "x" * 20_000, "x" * 100_000, "x" * 1_000_000),
)
_VALUES: tuple[Json, ...] = (
    *(None, True, False, -1, 0, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, 5e-324, -0.0, 0.5),
    *([], {}, [[]], [None], {"": None}, [0] * 10_000, json.loads("[" * 200 + "]" * 200)),
)
_RAW = (
    *("", " ", "null", "[]", "{", '"x"', "{}", '{"a":NaN}', '{"a":1,"a":2}', '{"\\ud800":1}', '{"a":1e999}', "\ud800"),
    *("[" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000, '{"a":' + "9" * 10_000 + "}"),
)


def hostile(args: Mapping[str, Json]) -> Iterator[str]:
    """Arguments as JSON texts: one part of these exchanged for something else, and JSON that is none."""
    yield from _RAW
    yield json.dumps({**args, "more": 1})
    for place in _places(args):
        for value in (*_TEXTS, *_VALUES):
            yield json.dumps(_exchanged(args, place, value), ensure_ascii=False)


def _places(value: Json, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a JSON value, itself left out."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*before, key)
        yield from _places(inner, (*before, key))


def _exchanged(args: Json, place: tuple[Any, ...], value: Json) -> Json:
    changed = copy.deepcopy(args)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed
