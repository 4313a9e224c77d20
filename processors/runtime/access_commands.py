"""Commands for the people who may use the console."""

from __future__ import annotations

import sys

import click

from processors.runtime.output import columns, console, echo_json, opened, requester, say
from processors.settings import Settings
from processors.store.operators import Role
from processors.workflows import access


def add(settings: Settings, name: str, role: Role, *, as_json: bool) -> None:
    """Add an operator, whose password is asked for, or read from standard input."""
    password = read_password(name)
    with opened(settings) as pool:
        added = access.add_operator(pool, name, password, role, requester())
    if as_json:
        echo_json(added)
    else:
        say(f"{added.name} may sign in at /console as {_article(added.role)}.")


def _article(role: Role) -> str:
    return "an operator: sees everything, and acts" if role == "operator" else "a viewer: sees, and changes nothing"


def change_password(settings: Settings, name: str, *, as_json: bool) -> None:
    """Give an operator another password; all sessions end."""
    password = read_password(name)
    with opened(settings) as pool:
        access.change_password(pool, name, password, requester())
    if as_json:
        echo_json({"name": name.strip().lower(), "state": "password changed"})
    else:
        say(f"{name.strip().lower()} has a new password, and is signed out everywhere.")


def change_role(settings: Settings, name: str, role: Role, *, as_json: bool) -> None:
    """Let somebody act, or only see."""
    with opened(settings) as pool:
        access.change_role(pool, name, role, requester())
    if as_json:
        echo_json({"name": name.strip().lower(), "role": role})
    else:
        say(f"{name.strip().lower()} is {_article(role)}.")


def remove(settings: Settings, name: str, *, as_json: bool) -> None:
    """Remove an operator, who is signed out at once."""
    with opened(settings) as pool:
        access.remove_operator(pool, name, requester())
    if as_json:
        echo_json({"name": name.strip().lower(), "state": "removed"})
    else:
        say(f"{name.strip().lower()} is removed, and signed out everywhere.")


def list_operators(settings: Settings, *, as_json: bool) -> None:
    """List everybody who may use the console."""
    with opened(settings) as pool:
        found = access.list_operators(pool)
    if as_json:
        for each in found:
            echo_json(each)
    elif not found:
        say("Nobody can sign in yet: operator add NAME")
    else:
        rows = [
            (
                each.name,
                each.role,
                f"{each.created_at:%Y-%m-%d %H:%M}",
                str(each.sessions),
                f"{each.seen_at:%Y-%m-%d %H:%M}" if each.seen_at else "",
            )
            for each in found
        ]
        names = ("name", "role", "since (UTC)", "signed in", "last seen (UTC)")
        console().print(columns(rows, names, left=("name", "role", "since (UTC)", "last seen (UTC)")))


def read_password(name: str) -> str:
    """Ask for a password twice without showing it, or take the first line of standard input."""
    if sys.stdin.isatty():
        prompt = f"Password for {name} (at least {access.SHORTEST_PASSWORD} characters)"
        password: str = click.prompt(prompt, hide_input=True, confirmation_prompt=True, err=True)
        return password
    return sys.stdin.readline().rstrip("\r\n")
