"""`loket users` and `loket roles`."""

from typing import Annotated

import typer

from loket.cli import client, show

_users = typer.Typer(help="Users whom you let in: list, add, remove, enable, disable.", no_args_is_help=True)
_roles = typer.Typer(
    help="Names that rules of the policy speak of: list, set, remove, give, take.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
Role = Annotated[str, typer.Argument(metavar="ROLE", help="The role's name.")]
Principal = Annotated[str, typer.Argument(metavar="PRINCIPAL", help="user:ana, agent:main, client:editor ...")]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(_users, name="users")
    app.add_typer(_roles, name="roles")


@_users.command("list", epilog="Example: loket users list --json")
def list_users(json_: show.JsonFlag = False) -> None:
    """List users with their roles."""
    result = client.perform("users.list")
    if json_:
        show.as_json(result)
        return
    rows = [[u["name"], u["roles"], "" if u["enabled"] else "disabled", show.when(u["made"])] for u in result["users"]]
    show.table(["user", "roles", "", "made"], rows, "no users: you are alone here", whole=("user",))


@_users.command("add", epilog="Example: loket users add ana --role reader")
def add_user(
    name: Name,
    role: Annotated[list[str] | None, typer.Option(help="A role of theirs; may be repeated.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Make a user. What they may do is said by the rules about their roles."""
    result = client.perform("users.add", name=name, roles=role or [])
    show.as_json(result) if json_ else show.say(f"{name} is a user with {show.word(result['roles']) or 'no role'}.")


@_users.command("remove", epilog="Example: loket users remove ana")
def remove_user(name: Name, json_: show.JsonFlag = False) -> None:
    """Remove a user."""
    result = client.perform("users.remove", name=name)
    show.as_json(result) if json_ else show.say(f"{name} is no user any more.")


@_users.command("enable", epilog="Example: loket users enable ana")
def enable_user(name: Name, json_: show.JsonFlag = False) -> None:
    """Let a user do what their roles allow."""
    _enable(name, enabled=True, json_=json_)


@_users.command("disable", epilog="Example: loket users disable ana")
def disable_user(name: Name, json_: show.JsonFlag = False) -> None:
    """Let a user do nothing, from the next call on."""
    _enable(name, enabled=False, json_=json_)


def _enable(name: str, *, enabled: bool, json_: bool) -> None:
    result = client.perform("users.enable", name=name, enabled=enabled)
    show.as_json(result) if json_ else show.say(f"{name} is {'enabled' if enabled else 'disabled'}.")


@_roles.command("list", epilog="Example: loket roles list")
def list_roles(json_: show.JsonFlag = False) -> None:
    """List roles with those who have them."""
    result = client.perform("roles.list")
    if json_:
        show.as_json(result)
        return
    rows = [[role["name"], role["description"], role["members"]] for role in result["roles"]]
    show.table(["role", "means", "members"], rows, "no roles: loket roles set NAME", whole=("role",))


@_roles.command("set", epilog='Example: loket roles set reader --description "may read what agents keep"')
def set_role(
    role: Role,
    description: Annotated[str, typer.Option(help="What it means, in a line.")] = "",
    json_: show.JsonFlag = False,
) -> None:
    """Make a role, or describe it anew. What it allows stands in the rules of the policy."""
    result = client.perform("roles.set", role=role, description=description)
    show.as_json(result) if json_ else show.say(f'Rules can say: principal in Role::"{role}"')


@_roles.command("remove", epilog="Example: loket roles remove reader")
def remove_role(role: Role, json_: show.JsonFlag = False) -> None:
    """Remove a role, and take it from all who have it."""
    result = client.perform("roles.remove", role=role)
    show.as_json(result) if json_ else show.say(f"Nobody has the role {role} any more.")


@_roles.command("give", epilog="Example: loket roles give reader user:ana")
def give_role(role: Role, principal: Principal, json_: show.JsonFlag = False) -> None:
    """Give a role to a user, an agent, a client or a sender."""
    result = client.perform("roles.give", role=role, principal=principal)
    show.as_json(result) if json_ else show.say(f"{principal} has the role {role}.")


@_roles.command("take", epilog="Example: loket roles take reader user:ana")
def take_role(role: Role, principal: Principal, json_: show.JsonFlag = False) -> None:
    """Take a role away again."""
    result = client.perform("roles.take", role=role, principal=principal)
    show.as_json(result) if json_ else show.say(f"{principal} does not have the role {role} any more.")
