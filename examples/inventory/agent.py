"""Stock by article and location: the opening stock is part of the module, later counts are kept under `stock/`."""

from loket_guest import Refused, call, operation

OPENED = "2026-01-05"
"""The day on which the opening stock was counted."""

STOCK = {
    ("XYZ-900", "WH-A"): 120,
    ("XYZ-900", "WH-B"): 36,
    ("XYZ-900", "SHOP"): 4,
    ("XYZ-910", "WH-A"): 75,
    ("ABC-100", "WH-A"): 1_450,
    ("ABC-100", "SHOP"): 60,
    ("KLM-205", "WH-B"): 8,
    ("KLM-205", "SHOP"): 0,
}


@operation
def lookup(sku: str, location: str, on: str | None = None) -> dict[str, str | int]:
    """Answer with the last count at or before a day, or with the latest one."""
    for day, quantity in reversed(_counts(sku, location)):
        if on is None or day <= on:
            return {"sku": sku, "location": location, "quantity": quantity, "counted": day}
    raise Refused("inventory.uncounted", f"nobody had counted {sku} at {location} by {on}", f"ask from {OPENED} on")


@operation
def count(sku: str, location: str, quantity: int, on: str) -> dict[str, int]:
    """Keep a count; a second one of the same day replaces the first."""
    kept = {**dict(_counts(sku, location)), on: quantity}
    call("kv.set", key=_key(sku, location), value=[[day, kept[day]] for day in sorted(kept)])
    return {"counts": len(kept)}


def _counts(sku: str, location: str) -> list[list]:
    """All counts of an article at a location, by day. Days in ISO 8601 sort as texts."""
    held = call("kv.get", key=_key(sku, location))
    if held["found"]:
        return held["value"]
    if (sku, location) not in STOCK:
        raise Refused("inventory.unknown", f"{location} does not keep {sku}", "look at another location")
    return [[OPENED, STOCK[sku, location]]]


def _key(sku: str, location: str) -> str:
    return f"stock/{sku}/{location}"
