"""The command line. Each command reads its settings, calls one function, and says what came of it."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar

import click
from rich.console import Console

from processors import logs, redaction, sentry
from processors.errors import ConfigurationError
from processors.settings import Settings, load_what_is_right

if TYPE_CHECKING:
    from processors.store.event_filter import EventFilter

P = ParamSpec("P")

_DATABASE = "DATABASE_URL"
_REDIS = "REDIS_URL"

_DOT_ENV = Path(".env")
_SERVICES_OF_DEV = Path(".local/env")


_json_option = click.option("--json", "as_json", is_flag=True, help="Say it in JSON, a line at a time.")


def _with_settings(
    *required: str, process: str, is_quiet: bool = False
) -> Callable[[Callable[Concatenate[Settings, P], None]], Callable[P, None]]:
    """Give a command its settings; a wrong one ends it with exit code 2 and a line for each.

    `is_quiet`: what it says is its output, also of errors; the log, on standard error, is for what nobody foresaw.
    """

    def decorate(command: Callable[Concatenate[Settings, P], None]) -> Callable[P, None]:
        @wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            if is_quiet:
                _join_dev()
            try:
                settings = Settings.load(*required)
            except ConfigurationError as error:
                _stop(str(error), 2)
            if is_quiet:
                logs.configure(settings.log_format, "critical", process=process, stream=sys.stderr)
            else:
                logs.configure(settings.log_format, settings.log_level, process=process)
            if is_quiet:
                # The long-running processes do so themselves.
                sentry.start(settings, process=process)
            try:
                command(settings, *args, **kwargs)
            except click.ClickException as error:
                if kwargs.get("as_json"):
                    _stop(_as_json(state="failed", error=error.message), error.exit_code)
                raise

        return run

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Keep a Postgres copy of a Zoho Inventory catalogue."""


@main.command()
@_json_option
@_with_settings(_DATABASE, process="migrate")
def migrate(settings: Settings, *, as_json: bool) -> None:
    """Bring the database to the schema of this release.

    Makes an empty database, or applies the migrations that it lacks. Safe to run again, by two at once, and while
    processes run. What differs from schema.sql afterwards is named, and left as it is.
    """
    import psycopg  # noqa: PLC0415 - the other commands start without it

    from processors.errors import MigrationFailed, SchemaUnknown  # noqa: PLC0415
    from processors.store import schema  # noqa: PLC0415

    url = settings.database_url or ""
    try:
        applied = schema.migrate(url)
    except (MigrationFailed, SchemaUnknown, psycopg.Error) as error:
        message = f"migrate failed: {redaction.redact(str(error))}"
        _stop(_as_json(state="failed", error=message) if as_json else message, 1)
    try:
        with schema.connect(url) as connection:
            differing = [str(each) for each in schema.differences(connection) if each.expected is not None]
    except psycopg.Error as error:
        # A user who may not create a schema, for one. The migrations are applied all the same.
        differing = [f"The database was not compared with schema.sql: {redaction.reason(error)}"]
    if as_json:
        click.echo(_as_json(state="up to date", changed=bool(applied), applied=applied, differences=differing))
        return
    for name in applied:
        click.echo(f"Applied {name}.")
    for line in differing:
        click.echo(line, err=True)
    click.echo("The database is up to date.")


@main.command()
@_json_option
@_with_settings(_DATABASE, _REDIS, process="worker")
def worker(settings: Settings, *, as_json: bool) -> None:
    """Apply events, until a signal comes."""
    from processors.runtime import processes  # noqa: PLC0415

    if as_json:
        logs.configure("json", settings.log_level, process="worker")
    processes.run_worker(settings)


@main.command()
@_json_option
@_with_settings(_DATABASE, _REDIS, process="clock")
def clock(settings: Settings, *, as_json: bool) -> None:
    """Run the timetable, until a signal comes."""
    from processors.runtime import processes  # noqa: PLC0415

    if as_json:
        logs.configure("json", settings.log_level, process="clock")
    processes.run_clock(settings)


@main.command()
@click.option("--items", default=1_000, show_default=True, help="Size of the simulated catalogue.")
@_json_option
def demo(items: int, *, as_json: bool) -> None:
    """Show everything at work, with a simulated Zoho.

    Embedded Postgres and Redis and the Procfile's processes; Ctrl-C stops it all and leaves nothing behind.
    """
    try:
        port = Settings.load().port
    except ConfigurationError as error:
        _stop(str(error), 2)
    _on_this_machine(
        lambda console: _local("demo").run(items=items, port=port, console=console, as_json=as_json), as_json=as_json
    )


@main.command()
@_json_option
def dev(*, as_json: bool) -> None:
    """Run all processes here, against your own Zoho.

    Settings may stand in a file named .env. Postgres and Redis are embedded, and kept in .local/, where none are set.
    While it runs, the other commands find its settings and services when called in the same folder.
    """
    try:
        _read_settings(_DOT_ENV)
        settings = Settings.load("ZOHO_WEBHOOK_SECRETS")
    except ConfigurationError as error:
        _stop(str(error), 2)
    if as_json:
        os.environ["LOG_FORMAT"] = "json"
    _on_this_machine(lambda console: _local("dev").run(settings, console, tell=_SERVICES_OF_DEV), as_json=as_json)


def _join_dev() -> None:
    """Take the settings and services of a `dev` that runs in this folder, unless a database is set here."""
    if _DATABASE not in os.environ and _SERVICES_OF_DEV.exists():
        _read_settings(_DOT_ENV, _SERVICES_OF_DEV)


def _read_settings(*files: Path) -> None:
    """Take what the files set, the last of them first; the environment itself comes before them all."""
    from honcho import environ  # noqa: PLC0415 - an extra, which only `demo` and `dev` need

    for file in reversed(files):
        if file.exists():
            os.environ |= {**environ.parse(file.read_text("utf-8")), **os.environ}


def _commands() -> ModuleType:
    # The long-running processes start without them.
    return importlib.import_module("processors.runtime.operator_commands")


@main.command()
@click.option("--recent", is_flag=True, help="Only what was modified since the watermark; usually one call.")
@click.option("--wait", is_flag=True, help="Wait for its end; exit with 0 only if it is complete.")
@_json_option
@_with_settings(_DATABASE, _REDIS, process="cli", is_quiet=True)
def reconcile(settings: Settings, *, recent: bool, wait: bool, as_json: bool) -> None:
    """Compare with Zoho's whole list, and repair what differs.

    Takes up an interrupted run instead of starting a second one. Waiting, it does the work itself where no worker does.
    """
    _commands().reconcile(settings, kind="recent" if recent else "full", wait=wait, as_json=as_json)


class _ItemId(click.ParamType):  # type: ignore[type-arg] # generic in the stubs only
    """An item's id, in its one spelling."""

    name = "item_id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        """Read it as every other side does."""
        from processors.zoho.items import item_id_of  # noqa: PLC0415 - other commands start without it

        item_id = item_id_of(value)
        if item_id is None:
            self.fail(f"{value!r} is not an item id: expected digits without a zero in front, at most 20", param, ctx)
        return item_id


@main.command()
@click.argument("item_ids", nargs=-1, required=True, metavar="ITEM_ID...", type=_ItemId())
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def fetch(settings: Settings, item_ids: tuple[str, ...], *, as_json: bool) -> None:
    """Ask Zoho for items now, and write what it says."""
    _commands().fetch(settings, item_ids, as_json=as_json)


@main.group(invoke_without_command=True)
@click.option("--most", default=20, show_default=True, type=click.IntRange(min=1), help="How many.")
@_json_option
@click.pass_context
def runs(context: click.Context, *, most: int, as_json: bool) -> None:
    """List reconciliation runs, the newest first."""
    if context.invoked_subcommand is None:
        _list_runs(most=most, as_json=as_json)


@_with_settings(_DATABASE, process="cli", is_quiet=True)
def _list_runs(settings: Settings, *, most: int, as_json: bool) -> None:
    _commands().list_runs(settings, most=most, as_json=as_json)


@runs.command("show")
@click.argument("run_id", type=int)
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def show_run(settings: Settings, run_id: int, *, as_json: bool) -> None:
    """Show a run with its drift report: what it had to repair, and why."""
    _commands().show_run(settings, run_id, as_json=as_json)


@runs.command("confirm-deletes")
@click.argument("run_id", type=int)
@_json_option
@_with_settings(_DATABASE, _REDIS, process="cli", is_quiet=True)
def confirm_deletes(settings: Settings, run_id: int, *, as_json: bool) -> None:
    """Let a held run tombstone what Zoho does not have."""
    _commands().confirm_deletes(settings, run_id, as_json=as_json)


@runs.command("discard-deletes")
@click.argument("run_id", type=int)
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def discard_deletes(settings: Settings, run_id: int, *, as_json: bool) -> None:
    """End a held run; its suspects stay as they are."""
    _commands().discard_deletes(settings, run_id, as_json=as_json)


@runs.command("verify")
@click.argument("run_id", type=int)
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def verify_run(settings: Settings, run_id: int, *, as_json: bool) -> None:
    """Compute a run's certificate again; exit code 1 if it does not hold."""
    _commands().verify_run(settings, run_id, as_json=as_json)


@main.command()
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def status(settings: Settings, *, as_json: bool) -> None:
    """Say how the mirror is; exit code 1 if something needs a person."""
    _commands().status(settings, as_json=as_json)


@main.command()
@_json_option
def check(*, as_json: bool) -> None:
    """Try every setting and connection; exit code 1 if something is wrong.

    A line for each finding: what is wrong, and what to do. Calls Zoho a few times, and web through its public address.
    """
    _join_dev()
    settings, complaints = load_what_is_right(_DATABASE, _REDIS, "ZOHO_WEBHOOK_SECRETS")
    logs.configure(settings.log_format, "critical", process="cli", stream=sys.stderr)
    importlib.import_module("processors.runtime.check_command").check(settings, complaints, as_json=as_json)


@main.command()
@click.argument("item_id", type=_ItemId())
@click.option("--most", default=50, show_default=True, type=click.IntRange(min=1), help="How many.")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def changes(settings: Settings, item_id: str, *, most: int, as_json: bool) -> None:
    """List what was changed of an item, when and by what."""
    _commands().changes(settings, item_id, most=most, as_json=as_json)


def _access_commands() -> ModuleType:
    return importlib.import_module("processors.runtime.access_commands")


_role_option = click.option(
    "--role",
    type=click.Choice(["operator", "viewer"]),
    default="operator",
    show_default=True,
    help="An operator acts; a viewer only sees.",
)


@main.group()
def operator() -> None:
    """People who may use the console."""


@operator.command("add")
@click.argument("name")
@_role_option
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def add_operator(settings: Settings, name: str, role: str, *, as_json: bool) -> None:
    """Add somebody; asks for the password, or reads it from standard input."""
    _access_commands().add(settings, name, role, as_json=as_json)


@operator.command("list")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def list_operators(settings: Settings, *, as_json: bool) -> None:
    """List everybody who may use the console."""
    _access_commands().list_operators(settings, as_json=as_json)


@operator.command("password")
@click.argument("name")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def change_password(settings: Settings, name: str, *, as_json: bool) -> None:
    """Give somebody another password; signs them out everywhere."""
    _access_commands().change_password(settings, name, as_json=as_json)


@operator.command("role")
@click.argument("name")
@click.argument("role", type=click.Choice(["operator", "viewer"]))
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def change_role(settings: Settings, name: str, role: str, *, as_json: bool) -> None:
    """Let somebody act, or only see."""
    _access_commands().change_role(settings, name, role, as_json=as_json)


@operator.command("remove")
@click.argument("name")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def remove_operator(settings: Settings, name: str, *, as_json: bool) -> None:
    """Remove somebody, and sign them out."""
    _access_commands().remove(settings, name, as_json=as_json)


def _webhook_commands() -> ModuleType:
    return importlib.import_module("processors.runtime.webhook_commands")


@main.group()
def webhooks() -> None:
    """Zoho's webhooks and workflow rules that call this mirror."""


@webhooks.command("status")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def webhooks_status(settings: Settings, *, as_json: bool) -> None:
    """Ask Zoho how they are; exit code 1 if one is missing, disabled, changed or there twice."""
    _webhook_commands().status(settings, as_json=as_json)


@webhooks.command("register")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def webhooks_register(settings: Settings, *, as_json: bool) -> None:
    """Make them in Zoho, or repair them; needs a connection that may change settings."""
    _webhook_commands().register(settings, as_json=as_json)


@webhooks.command("unregister")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def webhooks_unregister(settings: Settings, *, as_json: bool) -> None:
    """Remove from Zoho what `register` made."""
    _webhook_commands().unregister(settings, as_json=as_json)


@webhooks.command("instructions")
@click.option("--show-secret", is_flag=True, help="With the secret; it is noted in the audit log.")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def webhooks_instructions(settings: Settings, *, show_secret: bool, as_json: bool) -> None:
    """Say every click and value for making them by hand."""
    _webhook_commands().instructions(settings, show_secret=show_secret, as_json=as_json)


@webhooks.command("accept-shape")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def webhooks_accept_shape(settings: Settings, *, as_json: bool) -> None:
    """Take what deliveries look like now for what they should."""
    _webhook_commands().accept_shape(settings, as_json=as_json)


@main.group()
def keys() -> None:
    """Keys of ENCRYPTION_KEYS, under which the credentials of Zoho are stored."""


@keys.command("generate")
@_json_option
def generate_key(*, as_json: bool) -> None:
    """Make a key; put it at the beginning of ENCRYPTION_KEYS."""
    from cryptography.fernet import Fernet  # noqa: PLC0415 - the other commands start without it

    key = Fernet.generate_key().decode()
    click.echo(_as_json(key=key) if as_json else key)


@keys.command("rotate")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def rotate_keys(settings: Settings, *, as_json: bool) -> None:
    """Encrypt all that is stored with the newest key, so that older ones can go."""
    importlib.import_module("processors.runtime.key_commands").rotate(settings, as_json=as_json)


def _alert_commands() -> ModuleType:
    return importlib.import_module("processors.runtime.alert_commands")


@main.group(invoke_without_command=True)
@_json_option
@click.pass_context
def alerts(context: click.Context, *, as_json: bool) -> None:
    """List what people were told of, open alerts first."""
    if context.invoked_subcommand is None:
        _list_alerts(as_json=as_json)


@_with_settings(_DATABASE, process="cli", is_quiet=True)
def _list_alerts(settings: Settings, *, as_json: bool) -> None:
    _alert_commands().list_alerts(settings, as_json=as_json)


@alerts.command("test")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def test_alerts(settings: Settings, *, as_json: bool) -> None:
    """Send a test message to where ALERT_WEBHOOK_URL leads."""
    _alert_commands().send_test(settings, as_json=as_json)


def _token_commands() -> ModuleType:
    return importlib.import_module("processors.runtime.token_commands")


@main.group()
def token() -> None:
    """Programs that may use the JSON API."""


@token.command("create")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["read", "write"]),
    default="read",
    show_default=True,
    help="With write it may start runs, replay, discard and fetch, too.",
)
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def create_token(settings: Settings, name: str, scope: str, *, as_json: bool) -> None:
    """Make a token for a program, and show it this once."""
    _token_commands().create(settings, name, scope, as_json=as_json)


@token.command("list")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def list_tokens(settings: Settings, *, as_json: bool) -> None:
    """List tokens: whose, since when, and when they were used last."""
    _token_commands().list_tokens(settings, as_json=as_json)


@token.command("revoke")
@click.argument("token_id", type=int, metavar="ID")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def revoke_token(settings: Settings, token_id: int, *, as_json: bool) -> None:
    """Let a token open nothing any more, from its next request."""
    _token_commands().revoke(settings, token_id, as_json=as_json)


def _event_commands() -> ModuleType:
    return importlib.import_module("processors.runtime.event_commands")


_Command = TypeVar("_Command", bound=Callable[..., object])


def _filter_options(command: _Command) -> _Command:
    """Add the options that say which events are meant."""
    times = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"])
    for option in (
        click.option("--until", type=times, help="Received before this time, in UTC."),
        click.option("--since", type=times, help="Received at this time or later, in UTC."),
        click.option("--run", "run_id", type=int, help="Found unusable by this reconciliation run."),
        click.option("--kind", type=click.Choice(["changed", "deleted"]), help="Of the changed or the deleted route."),
        click.option("--item", "item_id", type=_ItemId(), help="Of this item."),
        click.option("--error-class", help="Of this class of error, such as ZohoUnavailable."),
        click.option("--error", help="With this text in the error."),
    ):
        command = option(command)
    return command


def _event_filter(**asked: Any) -> EventFilter:  # noqa: ANN401 - click checks them
    from processors.store.event_filter import EventFilter  # noqa: PLC0415

    times = {name: asked[name] and asked[name].replace(tzinfo=UTC) for name in ("since", "until")}
    return EventFilter(**{**asked, **times})


@main.group(invoke_without_command=True)
@click.option("--state", type=click.Choice(["recorded", "queued", "processing", "processed", "dead"]))
@click.option("--outcome", help="With this outcome.")
@_filter_options
@click.option("--most", default=20, show_default=True, type=click.IntRange(min=1), help="How many.")
@_json_option
@click.pass_context
def events(context: click.Context, /, **asked: Any) -> None:  # noqa: ANN401 - click checks them
    """List events, the newest first: all, or those that match."""
    if context.invoked_subcommand is None:
        _list_events(**asked)


@_with_settings(_DATABASE, process="cli", is_quiet=True)
def _list_events(settings: Settings, /, *, most: int, as_json: bool, **asked: Any) -> None:  # noqa: ANN401
    _event_commands().list_events(settings, _event_filter(**asked), most=most, as_json=as_json)


@events.command("show")
@click.argument("event_id", type=int)
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def show_event(settings: Settings, event_id: int, *, as_json: bool) -> None:
    """Show an event: its attempts one by one, and its body."""
    _event_commands().show_event(settings, event_id, as_json=as_json)


@events.command("causes")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def list_causes(settings: Settings, *, as_json: bool) -> None:
    """Group dead events by the root of their cause."""
    _event_commands().list_causes(settings, as_json=as_json)


def _chosen(event_ids: tuple[int, ...], asked: dict[str, Any]) -> EventFilter:
    chosen = _event_filter(event_ids=event_ids or None, **asked)
    if chosen.is_empty:
        message = "name the events that are meant: their ids, or a filter such as --state dead"
        raise click.UsageError(message)
    return chosen


@main.command()
@click.argument("event_ids", nargs=-1, type=int, metavar="[EVENT_ID]...")
@click.option("--state", type=click.Choice(["dead", "processed"]), help="Of this state.")
@_filter_options
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--per-second", default=50, show_default=True, type=click.IntRange(1, 10_000), help="The pace.")
@click.option("--dry-run", is_flag=True, help="Say what each event would change, and change nothing.")
@click.option("--wait/--no-wait", default=True, help="Wait, and say what came of each; exit with 1 if one died again.")
@_json_option
@_with_settings(_DATABASE, _REDIS, process="cli", is_quiet=True)
def replay(
    settings: Settings,
    /,
    event_ids: tuple[int, ...],
    *,
    reason: str,
    per_second: int,
    dry_run: bool,
    wait: bool,
    as_json: bool,
    **asked: Any,  # noqa: ANN401 - click checks them
) -> None:
    """Send finished events again: those named, or all that match.

    An old event never puts a row back: what is newer stays. Discarded events are only meant by their ids.
    """
    chosen = _chosen(event_ids, asked)
    if dry_run:
        _event_commands().rehearse(settings, chosen, as_json=as_json)
    else:
        _event_commands().replay(settings, chosen, reason=reason, per_second=per_second, wait=wait, as_json=as_json)


@main.group(invoke_without_command=True)
@click.option("--most", default=20, show_default=True, type=click.IntRange(min=1), help="How many.")
@_json_option
@click.pass_context
def replays(context: click.Context, *, most: int, as_json: bool) -> None:
    """List replays, the newest first: who, when, why, and what came of it."""
    if context.invoked_subcommand is None:
        _list_replays(most=most, as_json=as_json)


@_with_settings(_DATABASE, process="cli", is_quiet=True)
def _list_replays(settings: Settings, *, most: int, as_json: bool) -> None:
    _event_commands().list_replays(settings, most=most, as_json=as_json)


@replays.command("show")
@click.argument("replay_id", type=int)
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def show_replay(settings: Settings, replay_id: int, *, as_json: bool) -> None:
    """Show what came of each event of a replay."""
    _event_commands().show_replay(settings, replay_id, as_json=as_json)


@replays.command("cancel")
@click.argument("replay_id", type=int)
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def cancel_replay(settings: Settings, replay_id: int, *, as_json: bool) -> None:
    """Send nothing more of a replay; what was sent stays sent."""
    _event_commands().cancel_replay(settings, replay_id, as_json=as_json)


@main.command()
@click.argument("event_ids", nargs=-1, type=int, metavar="[EVENT_ID]...")
@click.option("--state", type=click.Choice(["dead"]), help="All that are dead.")
@_filter_options
@click.option("--reason", required=True, help="Why, for the record.")
@_json_option
@_with_settings(_DATABASE, process="cli", is_quiet=True)
def discard(
    settings: Settings,
    /,
    event_ids: tuple[int, ...],
    *,
    reason: str,
    as_json: bool,
    **asked: Any,  # noqa: ANN401 - click checks them
) -> None:
    """Take dead events for settled: those named, or all dead ones that match."""
    _event_commands().discard(settings, _chosen(event_ids, asked), reason=reason, as_json=as_json)


def _local(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"processors.runtime.{name}")
    except ImportError as error:
        _stop(f"this command needs more than a deployment does: pip install 'zoho-mirror[local]' ({error})", 1)


def _on_this_machine(run: Callable[[Console], int], *, as_json: bool) -> None:
    from processors.runtime.local import LocalServerError  # noqa: PLC0415
    from processors.runtime.procfile import NotStarted  # noqa: PLC0415

    # The processes have logs of their own; of this one only trouble is of interest.
    logs.configure("console", "warning", process="local")
    try:
        # With --json, standard output holds nothing else.
        sys.exit(run(Console(stderr=as_json)))
    except (NotStarted, LocalServerError) as error:
        _stop(str(error), 1)


def _as_json(**values: object) -> str:
    return json.dumps(values, default=str)


def _stop(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)
