"""`loket skills`: instructions that agents read when they fit."""

from pathlib import Path
from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.cli.arguments import agent_ids
from loket.contracts import command

app = typer.Typer(
    help="Skills: folders with a SKILL.md, which agents read when they fit. Nothing in them is run.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The skill's name.")]
AgentOption = Annotated[str | None, typer.Option(help="Of this agent alone; else of all.", autocompletion=agent_ids)]
Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder with the SKILL.md; it is called like the skill.")
]


@app.command("list", epilog="Example: loket skills list --agent main")
def list_(agent: AgentOption = None, json_: show.JsonFlag = False) -> None:
    """List the skills with their state: approved, changed (approve it again) or broken."""
    found = client.perform("skills.list", agent=agent)
    if json_:
        show.as_json(found)
        return
    rows = [[one["name"], one["agent"] or "all", one["state"], one["description"]] for one in found["skills"]]
    show.table(["name", "of", "state", "for"], rows, "there are no skills", whole=("name", "state"))


@app.command("show", epilog="Example: loket skills show travel-expenses")
def show_(name: Name, agent: AgentOption = None, json_: show.JsonFlag = False) -> None:
    """Show a skill's instructions, its files, and the tools that it asks for (which it does not get by that)."""
    found = client.perform("skills.show", name=name, agent=agent)
    if json_:
        show.as_json(found)
        return
    show.say(f"{found['name']} ({found['state']}, {found['place']}): {found['description']}")
    if found["wants"]:
        show.say(f"asks for these tools, and gets none by that: {found['wants']}")
    show.say(f"files: {', '.join(one['path'] for one in found['files'])}")
    show.say(f"digest: {found['digest']}\n")
    show.say(found["text"])


@app.command(epilog="Example: loket skills validate ./travel-expenses")
def validate(folder: Folder, json_: show.JsonFlag = False) -> None:
    """Check a folder by the format of agentskills.io; nothing is changed."""
    found = client.perform("skills.validate", folder=str(folder.absolute()))
    if json_:
        show.as_json(found)
    else:
        show.say(f"{found['name']} is a skill: {found['description']}")


@app.command(epilog="Example: loket skills add ./travel-expenses --agent main")
def add(
    folder: Folder,
    agent: AgentOption = None,
    own: Annotated[bool, typer.Option("--own", help="You wrote it: its words are yours.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Copy a skill into the home, and approve it as it is."""
    found = client.perform("skills.add", folder=str(folder.absolute()), agent=agent, own=own)
    if json_:
        show.as_json(found)
        return
    show.say(f"Added {found['name']} for {found['agent'] or 'all agents'}: {found['description']}")
    if found["wants"]:
        show.say(f"It asks for these tools, and gets none by that: {found['wants']}")
    for name in found["unread"]:
        show.say(f"{name} may not read it yet: {command('grants', 'allow', name, 'skill.read')}")


@app.command(epilog="Example: loket skills approve travel-expenses")
def approve(
    name: Name,
    agent: AgentOption = None,
    digest: Annotated[str | None, typer.Option(help="Only if it is still what had this digest.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Approve a skill that has changed, as it is now."""
    _said(client.perform("skills.approve", name=name, agent=agent, digest=digest), "Approved", json_=json_)


@app.command(epilog="Example: loket skills remove travel-expenses")
def remove(name: Name, agent: AgentOption = None, json_: show.JsonFlag = False) -> None:
    """Take a skill out of the home."""
    _said(client.perform("skills.remove", name=name, agent=agent), "Removed", json_=json_)


def _said(found: dict[str, Any], word: str, *, json_: bool) -> None:
    show.as_json(found) if json_ else show.say(f"{word} {found['name']}")
