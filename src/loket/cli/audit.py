"""`loket audit`: the proof that the journal is what it was."""

import datetime as dt
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loket.cli import client, show
from loket.contracts import BadInput

if TYPE_CHECKING:
    from loket.audit import Proved

app = typer.Typer(help="Proves that the journal is what it was: checkpoints, verify, export.", no_args_is_help=True)

_LONGEST = 1 << 17
_SHOWN = 20
_UNITS = {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}

Since = Annotated[
    str | None, typer.Option(metavar="DATE", help="A date or time (2026-11-21, 2026-11-21T10:00), or an age (7d).")
]
Against = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="A checkpoint that was kept elsewhere; may be repeated.")
]


@app.command(epilog="Example: loket audit checkpoint --out /media/disk/loket.checkpoint")
def checkpoint(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it to a new file.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Sign what the journal is now. Keep it where nobody who has this machine can change it."""
    if out is not None and os.path.lexists(out):
        raise BadInput("audit.exists", f"{out} is there already", "name a file that is not there yet")
    with show.progress("Checkpoint", quiet=json_) as on_event:
        result = client.perform("audit.checkpoint", on_event)
    if out is not None:
        _write(out, result["text"])
    if json_:
        show.as_json(result)
    elif out is None:
        print(result["text"], end="")  # noqa: T201 - printing is the point
        sys.stderr.write(f"Public key: {result['key']}\n")
    else:
        show.say(f"{result['size']} rows, signed at {result['time']}: {out}")
        show.say(f"Public key: {result['key']}")


@app.command(epilog="Example: loket audit verify --against /media/disk/loket.checkpoint; echo $?")
def verify(
    against: Against = None,
    since: Since = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Verify this export instead; needs no home.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The public key that an export must be signed with, or its file.")
    ] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Compare the journal with its chain, its seal and all checkpoints. Exit code 0 only if everything holds."""
    given = {str(path): _read(path) for path in against or ()}
    if export is not None:
        _verify_export(export, key, given, since, json_=json_)
        return
    if key is not None:
        raise BadInput("audit.key", "--key goes with --export; a home's own key is in its vault", "--export FILE")
    with show.progress("Verifying", quiet=json_) as on_event:
        result = client.perform("audit.verify", on_event, against=given or None, since=_time(since))
    show.as_json(result) if json_ else _tell(result)
    raise typer.Exit(show.DONE if result["ok"] else show.FAILED)


@app.command(epilog="Example: loket audit export audit.jsonl --since 2026-11-01")
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that is not there yet.")],
    run: Annotated[
        list[str] | None, typer.Option("--run", metavar="ID", help="Only this run's rows; may be repeated.")
    ] = None,
    since: Since = None,
    values: Annotated[bool, typer.Option("--values", help="What was said, too, in the clear.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Write rows with proofs that anyone can verify without Loket and without this home."""
    target = str(file.expanduser().absolute())
    with show.progress("Export", quiet=json_) as on_event:
        result = client.perform(
            "audit.export", on_event, file=target, runs=run or None, since=_time(since), values=values
        )
    if json_:
        show.as_json(result)
        return
    show.say(f"{result['rows']} of {result['size']} rows, {result['bytes'] / 1e6:.1f} MB: {result['file']}")
    show.say(f"To verify it anywhere: loket audit verify --export {file.name}")


def _time(text: str | None) -> float | None:
    """Seconds since 1970 of a date, a time (both local, if they name no zone) or an age. Raises `BadInput`."""
    if text is None:
        return None
    age = re.fullmatch(r"([0-9]{1,6})([hdw])", text)
    if age is not None:
        return dt.datetime.now(dt.UTC).timestamp() - float(age[1]) * _UNITS[age[2]]
    try:
        return dt.datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        raise BadInput(
            "audit.since", f"{text!r} is no date, time or age", "--since 2026-11-21, or --since 7d"
        ) from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST).decode("utf-8", "replace")
    except OSError as error:
        raise BadInput("audit.file", f"{path} cannot be read: {error.strerror}", "name another file") from None


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        remedy = "it is kept in the home's audit/checkpoints; copy it from there"
        raise BadInput("audit.file", f"{path} cannot be written: {error.strerror}", remedy) from None


def _tell(result: dict[str, Any]) -> None:
    show.say(f"{result['rows']} rows, home {result['home']}")
    if result["first"] != 1:
        looked = f"from row {result['first']} on" if result["first"] else "none"
        show.say(f"  rows looked at one by one: {looked}; the others count by their hashes")
    kept = result["checkpoints"]
    show.say(f"  {sum(one['ok'] for one in kept)} of {len(kept)} checkpoints hold")
    wrong = [one["reason"] for one in kept if not one["ok"]] + [one["reason"] for one in result["faults"]]
    _tell_wrong(wrong, "Chain, seal, values and checkpoints hold.")


def _tell_wrong(wrong: list[str], sound: str) -> None:
    for reason in wrong[:_SHOWN]:
        show.say(f"  wrong: {reason}")
    if len(wrong) > _SHOWN:
        show.say(f"  and {len(wrong) - _SHOWN} more (--json)")
    if not wrong:
        show.say(sound)


def _verify_export(file: Path, key: str | None, given: dict[str, str], since: str | None, *, json_: bool) -> None:
    if since is not None:
        raise BadInput("audit.since", "an export is verified as a whole, and --since is for a home", "leave it out")
    from loket.audit import parse_key, verify_export

    known = None
    if key is not None:
        known = parse_key(key if key.startswith("loket/") and "+" in key else _read(Path(key)))
    with show.progress("Verifying", quiet=json_) as on_event:
        tell = on_event or (lambda _event: None)
        proved = verify_export(
            file, known, given, lambda done, total: tell({"type": "progress", "done": done, "total": total})
        )
    show.as_json(_proved(proved)) if json_ else _tell_proved(proved, known=known is not None)
    raise typer.Exit(show.DONE if proved.ok else show.FAILED)


def _proved(proved: "Proved") -> dict[str, Any]:
    """The verdict as an object."""
    signed = proved.checkpoint
    facts = {"home": signed.origin, "key": str(proved.key), "size": signed.size, "root": signed.root.hex()}
    counts = {"rows": proved.rows, "erased": proved.erased, "values": proved.values, "complete": proved.complete}
    found = {"earlier": sorted(proved.earlier), "checkpoints": proved.compared, "faults": proved.faults}
    return {"ok": proved.ok, **facts, "time": signed.time, **counts, **found}


def _tell_proved(proved: "Proved", *, known: bool) -> None:
    signed = proved.checkpoint
    what = "all" if proved.complete else f"{proved.rows} of"
    show.say(f"{what} {signed.size} rows of the home {signed.origin}, signed at {signed.time}")
    if not known:
        show.say("  the key is the file's own: compare the home's id with the one that you know, or give --key")
    if not proved.complete:
        show.say("  what is here was in the journal; whether more of these runs was there, a complete export shows")
    wrong = [one["reason"] for one in proved.compared if not one["ok"]] + proved.faults
    _tell_wrong(wrong, f"It holds, with {len(proved.earlier)} earlier checkpoints.")
