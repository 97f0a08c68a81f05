"""What a schema refuses is told by place, type and what was expected, shortly."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loket.schemas import MOST, compile_check

STOCK = {
    "type": "object",
    "required": ["sku", "location"],
    "additionalProperties": False,
    "$defs": {"day": {"type": "string", "format": "date"}},
    "properties": {
        "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{3}$"},
        "location": {"enum": ["WH-A", "WH-B"]},
        "quantity": {"type": "integer", "minimum": 0, "maximum": 5000},
        "price": {"type": "number", "exclusiveMinimum": 0},
        "note": {"type": "string", "minLength": 1, "maxLength": 200},
        "on": {"$ref": "#/$defs/day"},
        "at": {"type": "string", "format": "date-time"},
        "by": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "items": {
            "type": "array",
            "maxItems": 2,
            "items": {"type": "object", "additionalProperties": False, "properties": {"date": {"format": "date"}}},
        },
    },
}
CHECK = compile_check(STOCK)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"sku": "xyz"}, 'sku is the string "xyz"; expected a string that matches ^[A-Z]{3}-[0-9]{3}$'),
        ({"sku": 900}, "sku is the integer 900; expected a string that matches ^[A-Z]{3}-[0-9]{3}$"),
        ({"location": "WH-C"}, 'location is the string "WH-C"; expected one of WH-A, WH-B'),
        ({"quantity": -1}, "quantity is the integer -1; expected an integer from 0 to 5,000"),
        ({"quantity": 1.5}, "quantity is the number 1.5; expected an integer from 0 to 5,000"),
        ({"quantity": True}, "quantity is the boolean true; expected an integer from 0 to 5,000"),
        ({"price": 0}, "price is the integer 0; expected a number above 0"),
        ({"note": ""}, 'note is the string ""; expected a string of 1 to 200 characters'),
        ({"note": ["a"]}, "note is an array with 1 item; expected a string of 1 to 200 characters"),
        ({"on": "21-11-2026"}, 'on is the string "21-11-2026"; expected a date in ISO 8601 such as 2026-11-21'),
        ({"on": None}, "on is null; expected a date in ISO 8601 such as 2026-11-21"),
        ({"at": "now"}, 'at is the string "now"; expected a date and time in ISO 8601 such as 2026-11-21T09:30:00Z'),
        ({"by": {}}, "by is an object with 0 fields; expected a string or null"),
        (
            {"items": [{"date": "2026-02-30"}]},
            'items[0].date is the string "2026-02-30"; expected a date in ISO 8601 such as 2026-11-21',
        ),
        ({"items": [{}, {}, {}]}, "items is an array with 3 items; expected an array of at most 2 items"),
        ({"items": [{}, {"dote": 1}]}, 'items[1].dote is no field that is known; did you mean "date"?'),
        ({"locaton": "WH-A"}, 'locaton is no field that is known; did you mean "location"?'),
        (
            {"a b": 1},
            '["a b"] is no field that is known; known: sku, location, quantity, price, note, on, at, by and 1',
        ),
    ],
)
def test_an_error_names_the_place_the_type_and_what_was_expected(given_: dict[str, Any], said: str) -> None:
    """For every kind of narrowing that a schema of ours has, also behind a reference."""
    wrong = CHECK({"sku": "XYZ-900", "location": "WH-A", **given_})
    assert wrong is not None
    assert wrong.startswith(said)


def test_a_missing_field_is_told_with_what_belongs_there() -> None:
    """Where a field with a similar name is there, that is told instead: it is why the other one is missing."""
    assert CHECK({"sku": "XYZ-900"}) == "location is missing; expected one of WH-A, WH-B"
    assert CHECK({"sku": "XYZ-900", "loc": "WH-A"}) == 'loc is no field that is known; did you mean "location"?'
    assert CHECK([]) == "the value is an array with 0 items; expected an object"


def test_keywords_that_have_no_words_of_ours_are_told_in_the_librarys() -> None:
    """Whatever a module's schema uses, there is a sentence."""
    for schema, value, said in (
        ({"not": {"type": "string"}}, "x", 'the value is the string "x"; '),
        ({"contains": {"type": "integer"}}, ["x"], "the value is an array with 1 item; None of"),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "b is missing"),
        ({"prefixItems": [{}], "items": False}, [1, 2], "[1] is the integer 2; nothing may stand here"),
    ):
        wrong = compile_check(schema)(value)
        assert wrong is not None
        assert wrong.startswith(said) or "b" in wrong


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = st.dictionaries(st.sampled_from([*STOCK["properties"], "skew", "\x1b[2J", "x" * 500]), _JSON, max_size=4)


@settings(max_examples=300, deadline=None)
@given(_FIELDS | _JSON)
def test_every_refusal_is_one_short_line(value: Any) -> None:
    """Whatever the value holds: one sentence, at most 300 characters, and nothing that a terminal obeys."""
    wrong = CHECK(value)
    assert wrong is None or (0 < len(wrong) <= MOST and not any(ord(letter) < 32 for letter in wrong))


def test_a_value_of_megabytes_is_told_shortly() -> None:
    """Values, names and places are each shortened on their own, so that what was expected is still there."""
    for value in ({"sku": "x" * 5_000_000}, {"x" * 5_000_000: 1}, {"note": ["x"] * 100_000}):
        wrong = CHECK({"sku": "XYZ-900", "location": "WH-A", **value})
        assert wrong is not None
        assert len(wrong) <= MOST
        assert "expected a string" in wrong or "is no field that is known" in wrong


@settings(max_examples=200, deadline=None)
@given(st.dates(min_value=dt.date(1, 1, 1)))
def test_a_date_is_accepted_in_iso_8601_alone(day: dt.date) -> None:
    """The same day written in another way is refused."""
    good = {"sku": "XYZ-900", "location": "WH-A", "on": day.isoformat()}
    assert CHECK(good) is None
    for written in (
        day.strftime("%d.%m.%Y"),
        day.isoformat().replace("-", "/"),
        f"{day.isoformat()} ",
        day.isoformat()[2:],
    ):
        assert "expected a date in ISO 8601" in (CHECK({**good, "on": written}) or "")


def test_a_schema_reaches_nothing_but_itself() -> None:
    """A reference to somewhere else is an error where the schema is read, not a request over a network."""
    with pytest.raises(Exception, match="itself alone"):
        compile_check({"$ref": "https://example.org/schema.json"})


def test_a_reference_that_leads_in_a_circle_ends() -> None:
    """Words are made from a few levels of a schema alone."""
    node = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#/$defs/node"}, "minItems": 1}]}
    wrong = compile_check({"$defs": {"node": node}, "type": "object", "properties": {"a": {"$ref": "#/$defs/node"}}})
    assert wrong({"a": [[[1]]]}) is None
    assert wrong({"a": "x"}) == 'a is the string "x"; expected an integer or an array of at least 1 items'
