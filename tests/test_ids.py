"""Ids of runs: they sort by time, and one that follows from a call is always the same."""

from hypothesis import given
from hypothesis import strategies as st

from loket.ids import derived_id, new_id

TIMES = st.floats(0, 4e9)


@given(TIMES, TIMES)
def test_ids_sort_by_the_time_at_which_they_were_made(one: float, other: float) -> None:
    """Also as texts: the list of runs needs no column for it. Those of one millisecond begin alike."""
    first, second = new_id(one), new_id(other)
    assert len(first) == 20
    assert set(first) <= set("0123456789abcdefghjkmnpqrstvwxyz")
    assert (first[:9] < second[:9]) == (int(one * 1000) < int(other * 1000))


def test_the_time_of_an_id_is_its_milliseconds() -> None:
    """2026-11-21T00:00:00.005Z, in digits of base 32."""
    assert new_id(1_795_219_200.005)[:9] == "1m7xpe605"


def test_ids_of_one_moment_differ() -> None:
    """55 bits of randomness: in ten thousand of one millisecond there are no two alike."""
    assert len({new_id(1.0) for _ in range(10_000)}) == 10_000


def test_the_id_of_a_run_that_a_call_starts_is_fixed() -> None:
    """Homes hold runs with such ids: a call that is made again after a crash has to find its run."""
    run = "1hx7k2m3n4p5q6r7s8t9"
    assert derived_id(run, 3) == "1hx7k2m3nwkpgvkm45qh"
    assert derived_id(run, 3, "ana") == "1hx7k2m3nq9vd6sfpy19"
    assert len({derived_id(run, 3), derived_id(run, 4), derived_id(run, 3, "ana")}) == 3
