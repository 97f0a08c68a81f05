"""`loket bench` and `loket eval brain`: measurements on this machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loket.cli import show
from loket.contracts import BadInput

if TYPE_CHECKING:
    from loket.bench import Benchmark, Row
    from loket.bench.security import SecurityReport

_eval = typer.Typer(help="Measure quality on a data set.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example: loket bench counter-call turn --json")(bench)
    app.add_typer(_eval, name="eval")


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Which rows; all if left out.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only list the rows and what they should reach.")] = False,
    json_: show.JsonFlag = False,
    kills: Annotated[int | None, typer.Option(min=0, help="kills (500), or plans (1,000).")] = None,
    losses: Annotated[int | None, typer.Option(min=0, help="durability: power losses (200).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="durability, plans: repeats a schedule.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="security: a folder of JSONL files with texts for the filter.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="security: leave out what needs agentdojo, by name.")] = False,
) -> None:
    """Measure speed and memory, each beside a peer; everything on temporary homes, about five minutes in all.

    `loket bench durability` takes longer: it kills a server and takes the power, and then checks every promise.
    `loket bench security` counts questions to the owner and attacks that reach their goal; each row has its target.
    """
    from loket.bench import CAMPAIGN, PLANS_KILLED, SECURITY, chosen

    benchmarks = chosen(names or [])
    if SECURITY in benchmarks and not list_:
        _alone(benchmarks)
        _schedules(kills, losses, seed)
        _security(data, quick=quick, as_object=json_)
        return
    if data is not None or quick:
        raise BadInput("bench.options", "--data and --quick belong to security", "loket bench security --quick")
    if CAMPAIGN in benchmarks and not list_:
        _alone(benchmarks)
        _durability(kills, losses, seed, as_object=json_)
        return
    if PLANS_KILLED in benchmarks and not list_:
        _alone(benchmarks)
        _plans(kills, seed, as_object=json_)
        return
    _schedules(kills, losses, seed)
    if list_:
        _list(benchmarks, as_object=json_)
        return
    machine, rows = _measured(benchmarks)
    if json_:
        show.as_json({"machine": machine, "rows": [row.as_dict() for row in rows]})
        return
    show.say("; ".join(f"{name} {value}" for name, value in machine.items() if value is not None))
    show.table(["row", "p50", "p99", "unit", "n", "target", "met"], _table(rows), "nothing was measured")
    show.say("Again, one by one: " + "; ".join(row.command for row in rows))


def _schedules(kills: int | None, losses: int | None, seed: int | None) -> None:
    """Refuse the options of the campaigns where none is run."""
    if (kills, losses, seed) != (None, None, None):
        raise BadInput("bench.options", "these options belong to durability and plans", "loket bench durability")


def _alone(benchmarks: "tuple[Benchmark, ...]") -> None:
    if len(benchmarks) > 1:
        raise BadInput("bench.alone", "durability, plans and security are run alone", "loket bench durability")


def _durability(kills: int | None, losses: int | None, seed: int | None, *, as_object: bool) -> None:
    """Run the campaign, say on stderr what is tried, and end with 1 where a promise was broken."""
    from loket.bench import machine, working_place
    from loket.bench.durability import KILLS, LOSSES, campaign, new_seed

    with working_place() as place:
        outcome = campaign(
            place,
            KILLS if kills is None else kills,
            LOSSES if losses is None else losses,
            new_seed() if seed is None else seed,
            lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201 - what is tried
        )
        described = machine(place)
    row = outcome.row()
    if as_object:
        show.as_json({"machine": described, "rows": [row.as_dict()], "violations": outcome.violations})
    else:
        show.table(["row", "p50", "p99", "unit", "n", "target", "met"], _table([row]), "nothing was tried")
        for violation in outcome.violations:
            show.say(f"! {violation}")
        show.say(f"{'Repeat' if outcome.violations else 'Again'}: {outcome.command} ({outcome.seconds:g} s)")
    if outcome.violations:
        raise typer.Exit(show.FAILED)


def _plans(kills: int | None, seed: int | None, *, as_object: bool) -> None:
    """Interrupt plans, say on stderr how far it is, and end with 1 where an effect was lost or done twice."""
    from loket.bench import working_place
    from loket.bench.durability import new_seed
    from loket.bench.plans import KILLS, campaign

    with working_place() as place:
        outcome = campaign(
            place,
            KILLS if kills is None else kills,
            new_seed() if seed is None else seed,
            lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201 - how far it is
        )
    found = outcome.as_dict()
    if as_object:
        show.as_json(found)
    else:
        show.pairs((name, found[name]) for name in ("plans", "interrupted", "kills", "seconds"))
        show.say(f"lost: {len(outcome.lost)}; done twice: {len(outcome.doubled)}")
        for broken in (*outcome.lost, *outcome.doubled):
            show.say(f"! {broken}")
        show.say(f"Again: {outcome.command}")
    if outcome.lost or outcome.doubled:
        raise typer.Exit(show.FAILED)


def _security(data: Path | None, *, quick: bool, as_object: bool) -> None:
    """Measure, say on stderr what is measured, and end with 1 where a row is not there or misses its target."""
    from loket.bench import machine, working_place
    from loket.bench.security import measure_security

    with working_place() as place:
        described = machine(place)
        report = measure_security(
            place,
            data,
            quick=quick,
            say=lambda name: print(f"{name} ...", file=sys.stderr, flush=True),  # noqa: T201 - how far it is
        )
    if as_object:
        show.as_json({"machine": described, **report.as_dict()})
    else:
        _show_security(report)
    if not report.met:
        raise typer.Exit(show.FAILED)


def _show_security(report: "SecurityReport") -> None:
    words = {None: "", True: "yes", False: "no"}
    lines = [
        [row.name, "-" if row.value is None else f"{row.value:g}", row.unit, row.n, row.aim, words[row.met]]
        for row in report.rows
    ]
    show.table(["row", "value", "unit", "n", "target", "met"], lines, "nothing was measured")
    for row in report.rows:
        if row.reason is not None:
            show.say(f"! {row.name} was not measured: {row.reason} ({row.remedy})")
        for detail in row.details if row.met is False else ():
            show.say(f"! {row.name}: {detail}")
    if report.left_out:
        show.say(f"Left out by --quick: {', '.join(report.left_out)}")
    for command in dict.fromkeys(row.command for row in report.rows):
        again = ", ".join(row.name for row in report.rows if row.command == command)
        show.say(f"Again: {command}  # {again}")


def _list(benchmarks: "tuple[Benchmark, ...]", *, as_object: bool) -> None:
    shown = [{"name": b.name, "unit": b.unit, "target": b.target, "about": b.about} for b in benchmarks]
    if as_object:
        show.as_json({"rows": shown})
    else:
        rows = [[b.name, _target(b.target, rate=b.rate), b.unit, b.about] for b in benchmarks]
        show.table(["row", "target", "unit", "what is measured"], rows, "there are no benchmarks")


def _measured(benchmarks: "tuple[Benchmark, ...]") -> "tuple[dict[str, Any], list[Row]]":
    """Measure, and say on stderr what happens."""
    from loket.bench import machine, measure, working_place

    rows: list[Row] = []
    with working_place() as place, show.progress("measuring", quiet=False) as on_event:
        described = machine(place)
        for benchmark in benchmarks:
            if on_event is None:
                sys.stderr.write(f"{benchmark.name} ...\n")
            rows.append(measure(benchmark, place))
            if on_event is not None:
                on_event({"type": "progress", "done": len(rows), "total": len(benchmarks)})
    return described, rows


def _target(target: float, *, rate: bool) -> str:
    return f"{'>=' if rate else '<='} {target:g}"


def _table(rows: "list[Row]") -> list[list[Any]]:
    lines: list[list[Any]] = []
    for row in rows:
        lines.append([row.name, row.p50, row.p99, row.unit, row.n, f"{row.target:g}", "yes" if row.met else "no"])
        for peer in row.peers:
            figures = [peer.get(key, "") for key in ("p50", "p99", "unit", "n")]
            lines.append([f"  {peer['name']}", *figures, "", peer.get("reason", "")])
    return lines


@_eval.command("brain", epilog="Example: loket eval brain locomo10.json --json")
def eval_brain(
    path: Annotated[Path, typer.Argument(help="A file in the format of LoCoMo (locomo10.json).")],
    gists: Annotated[bool, typer.Option("--gists", help="A second pass with the observations as gists.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Measure recall of memories: how often what answers a question is among the first found."""
    from loket.evaluation import evaluate

    with show.progress("asking", quiet=False) as on_event:

        def progress(done: int, total: int) -> None:
            if on_event is not None:
                on_event({"type": "progress", "done": done, "total": total})

        found = evaluate(path, progress, gists=gists)
    if json_:
        show.as_json(found)
    else:
        _show_recall(found)


_FIGURES = ("n", "r5", "r10", "r20", "mrr")


def _show_recall(found: dict[str, Any]) -> None:
    parts = {"all": found, **{f"category {name}": part for name, part in found["categories"].items()}}
    if "gists" in found:
        parts["all, with gists"] = found["gists"]
    show.table(["", *_FIGURES], [[name, *(part[key] for key in _FIGURES)] for name, part in parts.items()], "nothing")
