"""`python -m tests.reference` writes docs/reference.md from the code; a test keeps the two together."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click
from pydantic_core import PydanticUndefined

from processors.runtime import procfile
from processors.runtime.cli import main as commands
from processors.settings import Settings
from receiver import metrics
from receiver.api.app import _ROUTES as API_ROUTES

PAGE: Final = procfile.ROOT / "docs" / "reference.md"
_PACKAGES: Final = ("processors", "receiver")
_LEVELS: Final = ("debug", "info", "warning", "error", "exception")
REASONS: Final = {
    "check": "one of the doctor's, without a signature; not counted",
    "signature_absent": "no signature",
    "signature_malformed": "what should be a signature is no HMAC-SHA256 in hex or base64",
    "signature_mismatch": "a signature that fits no secret of `ZOHO_WEBHOOK_SECRETS`",
    "network": "the sender is not in `WEBHOOK_ALLOWED_NETWORKS`",
    "content_type": "not signed, and neither JSON nor a form nor multipart; or compressed",
    "size": "larger than `WEBHOOK_MAX_BYTES`",
    "slow": "the body did not arrive in time",
    "busy": "too much is being received at once",
}
_PROCESS_ROUTES: Final = (
    ("`POST`, `PUT /webhooks/zoho/items`", "created and edited items"),
    ("`POST`, `PUT`, `DELETE /webhooks/zoho/items/deleted`", "deleted items"),
    ("`GET /health/live`", "200 as long as the process answers"),
    ("`GET /health/ready`", "200 or 503, with the state of Postgres, the schema and the broker"),
    ("`GET /metrics`", "Prometheus text"),
    ("`/console/…`", "the operator console, signed in"),
    ("`GET /oauth/zoho/start`, `/oauth/zoho/callback`", "connecting Zoho in the browser"),
    ("`GET /api/openapi.json`", "the API's own document"),
)


def reference() -> str:
    """Return the page."""
    parts = [
        "# Reference",
        "Everything that has a name. `python -m tests.reference` writes this page from the code.",
        "## Environment",
        "A wrong or missing value stops the process at its start, with a line that names the variable.",
        _table(("variable", "it should hold", "default"), _settings()),
        "## Commands",
        "`python -m processors …`, each with `--help` and `--json`. Exit codes: 0 done, 1 failed, 2 wrong usage.",
        _table(("command", "what it does", "options"), _commands(commands, [])),
        "## Routes",
        _table(("route", "what it is for"), _PROCESS_ROUTES),
        _table(("API, under `/api`", "what it does"), _api()),
        "A delivery that is refused is counted by its reason:",
        _table(("reason", "means"), [(f"`{name}`", text) for name, text in REASONS.items()]),
        "## Tables",
        "For other programs: `products`, `product_changes`, `events`, `reconciliation_runs`, and the view `freshness`.",
        _table(("table", "holds"), _tables()),
        "## Metrics",
        _table(("metric", "labels", "means"), _metrics()),
        "## Log events",
        "A line of JSON each, with `event`, `level`, `logger`, `process` and `timestamp`, and the ids it is about.",
        _table(("event", "level", "from"), _log_events()),
    ]
    return "\n\n".join(parts) + "\n"


def _table(names: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _settings() -> Iterator[Sequence[str]]:
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = (
            ""
            if default in (None, (), PydanticUndefined)
            else str(default).lower()
            if default is True
            else str(default)
        )
        yield f"`{name.upper()}`", str(field.description), f"`{shown}`" if shown else ""


def _commands(group: click.Group, path: list[str]) -> Iterator[Sequence[str]]:
    for name, command in sorted(group.commands.items()):
        words = [*path, name]
        shown = " ".join([*words, *(f"{each.make_metavar(click.Context(command))}" for each in _arguments(command))])
        options = [
            each.opts[0] for each in command.params if isinstance(each, click.Option) and "--json" not in each.opts
        ]
        yield f"`{shown}`", command.get_short_help_str(200), ", ".join(f"`{each}`" for each in options)
        if isinstance(command, click.Group):
            yield from _commands(command, words)


def _arguments(command: click.Command) -> list[click.Argument]:
    return [each for each in command.params if isinstance(each, click.Argument)]


def _api() -> Iterator[Sequence[str]]:
    for path, method, endpoint, *_ in API_ROUTES:
        yield f"`{method} {path}`", (endpoint.__doc__ or "").partition("\n")[0]


def _tables() -> Iterator[Sequence[str]]:
    text = resources.files("processors.store").joinpath("sql", "schema.sql").read_text("utf-8")
    said: dict[str, str] = {}
    for names, prose in re.findall(r"^-- ((?:[a-z_]+, )*[a-z_]+): (.+(?:\n-- (?![a-z_]+: ).+)*)", text, re.MULTILINE):
        sentence = prose.replace("\n-- ", " ").partition(". ")[0].rstrip(".")
        for name in names.split(", "):
            said.setdefault(name, f"{sentence[0].upper()}{sentence[1:]}.")
    for name in re.findall(r"^CREATE (?:UNLOGGED )?TABLE (\w+)", text, re.MULTILINE):
        yield f"`{name}`", said.get(name, "")


def _metrics() -> Iterator[Sequence[str]]:
    for node in ast.walk(ast.parse(Path(metrics.__file__).read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            is_gauge = node.func.id == "_gauge"
            if is_gauge or node.func.id.endswith("MetricFamily"):
                given = [_constant(each) for each in node.args]
                labels = next((_constant(each.value) for each in node.keywords if each.arg == "labels"), None)
                labels = labels or (given[2] if len(given) > 2 else [])
                if isinstance(given[0], str):
                    suffix = "_total" if node.func.id.startswith("Counter") else ""
                    name = f"zoho_mirror_{given[0].removeprefix('zoho_mirror_')}{suffix}"
                    yield f"`{name}`", ", ".join(f"`{label}`" for label in labels), str(given[1])


def _constant(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _log_events() -> Iterator[Sequence[str]]:
    found: dict[str, tuple[set[str], set[str]]] = {}
    for package in _PACKAGES:
        for path in sorted((procfile.ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LEVELS:
                    name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
                    is_ours = ast.unparse(node.func.value).endswith("_log")
                    if is_ours and isinstance(name, str):
                        levels, modules = found.setdefault(name, (set(), set()))
                        levels.add("error" if node.func.attr == "exception" else node.func.attr)
                        modules.add(".".join(path.relative_to(procfile.ROOT).with_suffix("").parts))
    for name, (levels, modules) in sorted(found.items()):
        yield f"`{name}`", ", ".join(sorted(levels)), ", ".join(f"`{module}`" for module in sorted(modules))


if __name__ == "__main__":
    PAGE.write_text(reference(), "utf-8")
