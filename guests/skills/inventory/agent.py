"""Stock by article, location and day: a pure function of its arguments and of the table that it carries."""

from loket_guest import Refused, operation
from table import COUNTS

Counts = list[tuple[str, int]]


@operation
def lookup(sku: str, location: str, on: str | None = None) -> dict[str, str | int]:
    """Answer with the last count at or before a day, or with the latest one."""
    day, quantity = _until(sku, location, _counts(sku, location)[location], on)
    return {"sku": sku, "location": location, "quantity": quantity, "counted": day}


@operation
def calculate_inventory_delta(sku: str, start: str, end: str, location: str | None = None) -> dict[str, object]:
    """Answer by how much the stock changed from the end of one day to the end of another."""
    if end < start:
        raise Refused("inventory.range", f"{end} is before {start}", f"ask from {end} to {start}")
    before, after = 0, 0
    locations = {}
    for place, counts in sorted(_counts(sku, location).items()):
        first, last = _until(sku, place, counts, start)[1], _until(sku, place, counts, end)[1]
        before, after = before + first, after + last
        locations[place] = last - first
    return {
        "sku": sku,
        "start": start,
        "end": end,
        "before": before,
        "after": after,
        "delta": after - before,
        "locations": locations,
    }


@operation
def stock(text: str) -> dict[str, str]:
    """Answer with what there is of an article everywhere, for a person."""
    sku = text.strip().upper()
    parts = [f"{counts[-1][1]:,} at {place}" for place, counts in sorted(_counts(sku, None).items())]
    return {"text": f"{sku}: {', '.join(parts)}."}


def _counts(sku: str, location: str | None) -> dict[str, Counts]:
    """Find the counts of an article by location, or those of one. Raises `Refused` where there are none."""
    found = {place: counts for (one, place), counts in COUNTS.items() if one == sku and location in (None, place)}
    if not found:
        places = sorted(place for one, place in COUNTS if one == sku)
        known = (
            f"it is at {', '.join(places)}" if places else f"known are {', '.join(sorted({one for one, _ in COUNTS}))}"
        )
        raise Refused("inventory.unknown", f"{sku[:40]} is not kept{f' at {location}' if location else ''}", known)
    return found


def _until(sku: str, location: str, counts: Counts, day: str | None) -> tuple[str, int]:
    """Find the last count until a day, the latest without one. Raises `Refused` for a day before the first."""
    found = [one for one in counts if day is None or one[0] <= day]
    if not found:
        first = counts[0][0]
        raise Refused("inventory.uncounted", f"nobody had counted {sku} at {location} by {day}", f"ask from {first} on")
    return found[-1]
