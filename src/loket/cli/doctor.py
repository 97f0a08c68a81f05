"""`loket doctor`."""

from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.contracts import Failed
from loket.home import hold


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: loket doctor --fix")(doctor)


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what is safe to mend, and say what was done.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Look the home over: rights, databases, journal, vault, modules, models. Exit code 0 only if nothing failed."""
    result = _examined(fix=fix)
    if json_:
        show.as_json(result)
    else:
        _tell(result["checks"])
    raise typer.Exit(show.DONE if result["ok"] else show.FAILED)


def _examined(*, fix: bool) -> Any:
    """Through the server that holds the home; where none does here, as a home that is not sound may not start one."""
    home = client.home()
    from loket.doctor import all_sound, examine

    if not home.root.is_dir():
        checks = examine(home, port=client.port_given())
        return {"checks": checks, "ok": all_sound(checks)}
    try:
        with hold(home):
            checks = examine(home, fix=fix, port=client.port_given())
    except Failed as error:
        if error.code != "home.held":
            raise
        return client.perform("doctor", fix=fix)
    return {"checks": checks, "ok": all_sound(checks)}


def _tell(checks: list[dict[str, Any]]) -> None:
    for check in checks:
        show.say(f"{check['status']:<8} {check['name']:<12} {check['detail']}")
        if check["fixed"]:
            show.say(f"{'':<8} mended: {check['fixed']}")
        elif check["remedy"]:
            show.say(f"{'':<8} remedy: {check['remedy']}")
