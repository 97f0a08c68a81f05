"""`loket backup` and `loket restore`."""

import asyncio
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loket.cli import client, show
from loket.contracts import BadInput

if TYPE_CHECKING:
    from loket.backup.restore import Restored
    from loket.home import Home


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example: loket backup /media/disk/loket-2026-11-21")(backup)
    app.command(epilog="Example: loket restore backup --keys backup-keys --home ~/loket-2")(restore)


def backup(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help="A folder that is not there yet; named by the time if left out."),
    ] = None,
    models: Annotated[bool, typer.Option("--models", help="Model files too.")] = False,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="Leave the keys out.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Back the whole home up while it is used: content into DIR, keys into DIR-keys."""
    target = (folder or Path(f"loket-backup-{dt.datetime.now().astimezone():%Y-%m-%d-%H%M%S}")).expanduser().absolute()
    with show.progress("Backup", quiet=json_) as on_event:
        result = client.perform("backup", on_event, folder=str(target), models=models, keys=not no_keys)
    if json_:
        show.as_json(result)
        return
    show.say(f"{result['files']} files, {result['bytes'] / 1e6:.1f} MB: {result['folder']}")
    if result["keys"]:
        show.say(f"The keys to it: {result['keys']} (keep them elsewhere; only the newest are needed)")
    else:
        show.say(
            "Without keys: nobody can read what runs said, secrets and encrypted brains in it, unless you have vault/"
            " and keys.db of this home from another backup. Memories and files are as readable as they are in the home."
        )


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that `loket backup` made.")],
    keys: Annotated[Path | None, typer.Option(help="The folder with the keys; DIR-keys if left out.")] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Restore what can be read without keys; the rest counts as erased.")
    ] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Restore a backup into a new home (--home NEW), verified before and after."""
    from loket.backup import restore as bring_back

    target = client.home()
    place = None if without_keys else _keys_of(folder.expanduser().absolute(), keys)
    with show.progress("Restore", quiet=json_) as on_event:
        done = bring_back(
            folder.expanduser().absolute(), target.root, keys=place, emit=on_event or (lambda _event: None)
        )
    if done.erased:
        asyncio.run(_erase_again(target))
    _tell(done, as_object=json_)
    raise typer.Exit(show.DONE if done.ok else show.FAILED)


def _keys_of(folder: Path, given: Path | None) -> Path:
    """The folder with the keys. Raises `BadInput` where there is none."""
    place = given.expanduser().absolute() if given is not None else folder.with_name(f"{folder.name}-keys")
    if not place.is_dir():
        raise BadInput(
            "restore.keys",
            f"there are no keys at {place}; without them nobody can read what runs said",
            f"--keys FOLDER, or --without-keys to restore {folder.name} without them",
        )
    return place


async def _erase_again(home: "Home") -> None:
    """Take what was erased since the backup out of the brains, too."""
    from loket.app import running

    async with running(home, resume=False) as system:
        await asyncio.to_thread(system.eraser.resume)


def _tell(done: "Restored", *, as_object: bool) -> None:
    if as_object:
        facts = {"home": str(done.home), "files": done.files, "created": done.created, "loket": done.loket}
        counts = {"erased": done.erased, "unreadable": done.unreadable, "brains": list(done.brains)}
        journal = {"ok": done.ok, "faults": list(done.faults)}
        show.as_json({**facts, **counts, "journal": journal, "vouched": done.vouched, "ok": done.ok})
        return
    show.say(f"{done.files} files of {show.when(done.created)} are in {done.home}")
    if done.erased:
        show.say(f"{done.erased} runs were erased since then, and stay erased")
    if done.unreadable:
        show.say(f"{done.unreadable} runs can be read by nobody, and count as erased")
    if done.brains:
        show.say(f"encrypted brains were left out: {show.word(done.brains)}")
    for reason in done.faults:
        show.say(f"  journal: {reason}")
    if not done.vouched:
        show.say("Nobody vouches for the content: without keys it cannot be known whether somebody changed the backup.")
    show.say("The journal verifies." if done.ok else "The journal does not verify: use another backup.")
