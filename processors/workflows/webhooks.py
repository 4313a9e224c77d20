"""The two webhooks and workflow rules in Zoho that call this mirror: looked at, made, repaired and removed.

Zoho documents these calls for Books only; integrators use them for Inventory (`processors.zoho.client`). Wherever Zoho
does not go along, the same is done by hand: `instructions` says every click and every value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from processors import logs
from processors.errors import ConnectionRefused, NotAuthorised, TokenThrottled, WorkError
from processors.settings import Settings
from processors.store import audit, shapes
from processors.store.audit import Requester
from processors.store.database import Pool
from processors.zoho import signatures
from processors.zoho.client import ZohoClient

WRITING_SCOPE = "ZohoInventory.settings.ALL"
"""What it takes to change webhooks; the mirror's own work needs no more than `settings.READ`."""

RuleState = Literal["right", "missing", "disabled", "changed", "duplicated"]

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Rule:
    """One of the two: what it is called in Zoho, what sets it off, and where it delivers."""

    route: Literal["changed", "deleted"]
    name: str
    rule_type: str
    """In Zoho's word."""
    url: str


@dataclass(frozen=True, slots=True)
class RuleReport:
    """How one of the two is in Zoho."""

    rule: Rule
    state: RuleState
    what: str
    """Completes “the rule …”."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What Zoho has of one rule."""

    webhooks: list[Mapping[str, Any]]
    """That call its address, or have its name."""
    workflows: list[Mapping[str, Any]]
    """That call one of these webhooks, or have its name."""


class Webhooks:
    """The webhooks of one public address."""

    def __init__(self, pool: Pool, settings: Settings, zoho: ZohoClient, *, public_url: str | None = None) -> None:
        """Take the address under which Zoho reaches `web`; without one it is that of the settings.

        Raises:
            ConnectionRefused: there is none.
        """
        base = public_url or settings.public_url
        if base is None:
            message = "set PUBLIC_URL to the address under which Zoho reaches web, such as https://shop.example"
            raise ConnectionRefused(message)
        self._pool = pool
        self._settings = settings
        self._zoho = zoho
        self.rules = rules(base)

    def status(self) -> list[RuleReport]:
        """Ask Zoho how the rules are.

        Raises:
            ConnectionRefused: Zoho does not tell; the text says why, and what to do instead.
        """
        with _explained("look at"):
            return [_report(rule, found) for rule, found in self._found()]

    def register(self, requester: Requester) -> list[RuleReport]:
        """Make what is missing, repair what was changed, turn on what is off; return how the rules are then.

        Raises:
            ConnectionRefused: Zoho does not let us; the text says why, and what to do instead.
        """
        with _explained("change"):
            done = [change for rule, found in self._found() for change in self._repair(rule, found)]
        self._note(requester, "webhooks.registered", done)
        return self.status()

    def unregister(self, requester: Requester) -> list[str]:
        """Remove what `register` made, and return what that was; what has another name is left alone.

        Raises:
            ConnectionRefused: Zoho does not let us; the text says why, and what to do instead.
        """
        removed = []
        with _explained("change"):
            for rule, found in self._found():
                # A webhook that a rule calls cannot be removed.
                for kind, name, entries in (
                    ("workflows", "workflow_name", found.workflows),
                    ("webhooks", "webhook_name", found.webhooks),
                ):
                    for entry in entries:
                        if entry.get(name) == rule.name:
                            self._zoho.change_settings("DELETE", f"{kind}/{_id_of(kind, entry)}")
                            removed.append(f"{kind.removesuffix('s')} {rule.name}")
        self._note(requester, "webhooks.unregistered", removed)
        return removed

    def _note(self, requester: Requester, action: str, done: list[str]) -> None:
        with self._pool.connection() as connection:
            audit.note(connection, requester, action, [rule.name for rule in self.rules], {"done": done})
        _log.info(action, done=done, requested_by=str(requester))

    def _found(self) -> list[tuple[Rule, _Found]]:
        webhooks, workflows = self._zoho.settings_list("webhooks"), self._zoho.settings_list("workflows")
        return [(rule, _find(rule, webhooks, workflows)) for rule in self.rules]

    def _repair(self, rule: Rule, found: _Found) -> Iterator[str]:
        webhook = next(iter(found.webhooks), None)
        # Zoho shows no secret, so whether it is the right one cannot be seen: it is written each time.
        fields = {
            "webhook_name": rule.name,
            "entity": "item",
            "method": "POST",
            "url": rule.url,
            "secret": self._settings.zoho_webhook_secrets[0].get_secret_value(),
        }
        if webhook is None:
            made = self._zoho.change_settings("POST", "webhooks", fields)
            webhook = _entry(made, "webhook")
            yield f"made webhook {rule.name}"
        else:
            self._zoho.change_settings("PUT", f"webhooks/{_id_of('webhooks', webhook)}", fields)
            yield f"wrote webhook {rule.name}"
        webhook_id = _id_of("webhooks", webhook)
        # Which rules call it is told by the webhook, or by the rules: nobody documents whether a list has both.
        related = _rules_of(webhook)
        calling = [
            each for each in found.workflows if webhook_id in _webhooks_of(each) or _id_of("workflows", each) in related
        ]
        workflow = next(iter(calling or found.workflows), None)
        wanted = {
            "workflow_name": rule.name,
            "entity": "item",
            "rule_type": rule.rule_type,
            "apply_rule_always": True,
            "rule": {},
            "instant_actions": [{"action_type": "webhook", "action_id": webhook_id}],
        }
        if workflow is None:
            self._zoho.change_settings("POST", "workflows", wanted)
            yield f"made rule {rule.name}"
            return
        if not calling or workflow.get("rule_type", rule.rule_type) != rule.rule_type:
            self._zoho.change_settings("PUT", f"workflows/{_id_of('workflows', workflow)}", wanted)
            yield f"wrote rule {rule.name}"
        if not _is_active(workflow):
            self._zoho.change_settings("POST", f"workflows/{_id_of('workflows', workflow)}/active")
            yield f"turned rule {rule.name} on"


def rules(public_url: str) -> tuple[Rule, Rule]:
    """Return the two rules of a mirror that is reached at `public_url`."""
    base = public_url.rstrip("/")
    return (
        Rule("changed", "zoho-mirror changed", "add_edit", f"{base}/webhooks/zoho/items"),
        Rule("deleted", "zoho-mirror deleted", "delete", f"{base}/webhooks/zoho/items/deleted"),
    )


def accept_shape(pool: Pool, requester: Requester) -> int:
    """Take what deliveries look like now for what they should; return how many former shapes are forgotten."""
    with pool.connection() as connection, connection.transaction():
        forgotten = shapes.accept(connection)
        audit.note(connection, requester, "webhooks.shape_accepted", [], {"forgotten": forgotten})
    _log.info("webhooks.shape_accepted", forgotten=forgotten, requested_by=str(requester))
    return forgotten


def instructions(public_url: str, *, secret: str | None) -> list[str]:
    """Return what to click and type in Zoho Inventory, a line for each step; without `secret` it is only named."""
    shown = secret or "the first of ZOHO_WEBHOOK_SECRETS"
    lines = []
    for rule in rules(public_url):
        event = "Created or Edited" if rule.route == "changed" else "Deleted"
        lines += [
            f"For {event.lower()} items: Settings > Automation > Workflow Actions > Webhooks > New Webhook",
            f"    Name            {rule.name}",
            "    Module          Items",
            f"    URL to notify   POST {rule.url}",
            "    Secure webhook  tick “I want to secure this webhook”, and paste",
            f"                    {shown}",
            "    Body            Default payload; no query parameters, no custom headers; then Save",
            "Then: Settings > Automation > Workflow Rules > New Workflow Rule",
            f"    Name            {rule.name}",
            "    Module          Items",
            f"    Event           Event based, {event}"
            + (", when any field is updated, every time" if rule.route == "changed" else ""),
            "    Criteria        none",
            f"    Action          Immediate actions > Webhooks > {rule.name}; then Save",
            "",
        ]
    lines.append(
        f"Zoho then signs each delivery in the header {signatures.HEADER}. Edit an item: it should arrive in seconds."
    )
    return lines


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Turn what Zoho does not allow or know into a refusal that says what to do instead."""
    try:
        yield
    except NotAuthorised as error:
        message = (
            f"the connection may not {doing} Zoho's webhooks; set them up by hand as `webhooks instructions` says, "
            f"or connect Zoho with the scope {WRITING_SCOPE} as well, for as long as that takes"
        )
        raise ConnectionRefused(message) from error
    except TokenThrottled as error:
        message = f"{error}; try again in a minute"
        raise ConnectionRefused(message) from error
    except WorkError as error:
        message = f"Zoho does not go along ({error}); set its webhooks up by hand as `webhooks instructions` says"
        raise ConnectionRefused(message) from error


def _find(rule: Rule, webhooks: list[Mapping[str, Any]], workflows: list[Mapping[str, Any]]) -> _Found:
    named = [each for each in webhooks if each.get("webhook_name") == rule.name]
    calling = [each for each in webhooks if each.get("url") == rule.url and each not in named]
    ours = [*named, *calling]
    ids = {_id_of("webhooks", each) for each in ours}
    related = {workflow_id for each in ours for workflow_id in _rules_of(each)}
    return _Found(
        ours,
        [
            each
            for each in workflows
            if each.get("workflow_name") == rule.name
            or _id_of("workflows", each) in related
            or ids.intersection(_webhooks_of(each))
        ],
    )


def _report(rule: Rule, found: _Found) -> RuleReport:
    delivering = [each for each in found.webhooks if each.get("url") == rule.url]
    active = [each for each in found.workflows if _is_active(each)]
    if len(delivering) > 1:
        names = " and ".join(str(each.get("webhook_name")) for each in delivering)
        return RuleReport(rule, "duplicated", f"has several webhooks that deliver to the same address: {names}")
    if not found.webhooks:
        return RuleReport(rule, "missing", f"has no webhook: none delivers to {rule.url}")
    if not delivering:
        return RuleReport(rule, "changed", f"delivers to {found.webhooks[0].get('url')}, not to {rule.url}")
    if delivering[0].get("method") not in (None, "POST", "PUT"):
        return RuleReport(rule, "changed", f"delivers by {delivering[0].get('method')}, not by POST")
    if not found.workflows:
        return RuleReport(rule, "missing", "has a webhook, but no workflow rule calls it")
    if not active:
        return RuleReport(rule, "disabled", "is turned off")
    if len(active) > 1:
        return RuleReport(rule, "duplicated", f"is there {len(active)} times: each change would be delivered as often")
    rule_type = active[0].get("rule_type")
    if rule_type not in (None, rule.rule_type):
        return RuleReport(rule, "changed", f"is set off by {rule_type}, not by {rule.rule_type}")
    return RuleReport(rule, "right", f"delivers to {rule.url}")


def _id_of(kind: str, entry: Mapping[str, Any]) -> str:
    return str(entry.get(f"{kind.removesuffix('s')}_id", ""))


def _entry(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = answer.get(name)
    return found if isinstance(found, dict) else answer


def _webhooks_of(workflow: Mapping[str, Any]) -> set[str]:
    return {str(action.get("action_id")) for action in _list(workflow.get("instant_actions"))}


def _rules_of(webhook: Mapping[str, Any]) -> set[str]:
    return {str(rule.get("workflow_id")) for rule in _list(webhook.get("related_rules"))}


def _list(found: object) -> list[Mapping[str, Any]]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _is_active(workflow: Mapping[str, Any]) -> bool:
    """Nobody documents how Zoho writes it."""
    told = workflow.get("is_active", workflow.get("status", True))
    return told in (True, "true", "active", "Active")
