"""Webhooks and workflow rules as the settings API keeps them: undocumented for Inventory, used by integrators.

A webhook is called only where an active rule names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from threading import Lock
from typing import Any, Final
from urllib.parse import urlsplit

from simulator.catalogue import ItemEvent
from simulator.deliveries import Deliveries, Rule
from simulator.wire import Json

_SECRET: Final = re.compile(r"[A-Za-z0-9]{12,50}")
_EVENTS: Final[Mapping[str, frozenset[ItemEvent]]] = {
    "add": frozenset({ItemEvent.CREATED}),
    "edit": frozenset({ItemEvent.EDITED}),
    "add_edit": frozenset({ItemEvent.CREATED, ItemEvent.EDITED}),
    "delete": frozenset({ItemEvent.DELETED}),
}
_HERE: Final = ("127.0.0.1", "localhost", "::1")


class SettingsRefusal(Exception):
    """What was sent will not do."""

    def __init__(self, code: int, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook; its secret is not shown again."""

    webhook_id: str
    webhook_name: str
    entity: str
    method: str
    url: str
    secret: str | None

    def shown(self, workflow_ids: list[str]) -> dict[str, Json]:
        """Return it as the list has it."""
        return {
            "webhook_id": self.webhook_id,
            "webhook_name": self.webhook_name,
            "entity": self.entity,
            "method": self.method,
            "url": self.url,
            "related_rules": [{"workflow_id": workflow_id} for workflow_id in workflow_ids],
        }


@dataclass(frozen=True, slots=True)
class Workflow:
    """One rule, and the webhooks that it calls."""

    workflow_id: str
    workflow_name: str
    entity: str
    rule_type: str
    webhook_ids: tuple[str, ...]
    is_active: bool = True

    def shown(self) -> dict[str, Json]:
        """Return it as the list has it."""
        return {
            "workflow_id": self.workflow_id,
            "workflow_name": self.workflow_name,
            "entity": self.entity,
            "rule_type": self.rule_type,
            "is_active": self.is_active,
            "instant_actions": [{"action_type": "webhook", "action_id": each} for each in self.webhook_ids],
        }


class Automation:
    """All webhooks and rules. Thread-safe. Each change decides anew what `deliveries` sends, and to where."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._ids = (str(4_100_000_000_000_900_000 + number) for number in count(1))
        self._lock = Lock()
        self.webhooks: dict[str, Webhook] = {}
        self.workflows: dict[str, Workflow] = {}

    def list_webhooks(self) -> list[dict[str, Json]]:
        """Return all webhooks, each with the rules that call it."""
        with self._lock:
            return [self._shown(webhook) for webhook in self.webhooks.values()]

    def list_workflows(self) -> list[dict[str, Json]]:
        """Return all rules."""
        with self._lock:
            return [workflow.shown() for workflow in self.workflows.values()]

    def keep_webhook(self, fields: Mapping[str, Any], webhook_id: str | None = None) -> dict[str, Json]:
        """Make a webhook, or change one.

        Raises:
            SettingsRefusal: a field is missing or wrong, the name is taken, or there is no such webhook.
        """
        with self._lock:
            known = self._webhook(webhook_id) if webhook_id else None
            given = {name: fields.get(name, getattr(known, name, None)) for name in ("webhook_name", "entity", "url")}
            for name, value in given.items():
                if not isinstance(value, str) or not value:
                    raise SettingsRefusal(2, f"Invalid value passed for {name}")
            names = {each.webhook_name for each in self.webhooks.values() if each.webhook_id != webhook_id}
            if given["webhook_name"] in names:
                raise SettingsRefusal(107051, "A webhook with the same name exists already.")
            secret = fields.get("secret", known.secret if known else None)
            if secret is not None and not _SECRET.fullmatch(str(secret)):
                raise SettingsRefusal(2, "Invalid value passed for secret")
            method = str(fields.get("method", known.method if known else "POST"))
            webhook = Webhook(webhook_id or next(self._ids), method=method, secret=secret, **given)
            self.webhooks[webhook.webhook_id] = webhook
            self._apply()
            return self._shown(webhook)

    def delete_webhook(self, webhook_id: str) -> None:
        """Remove a webhook.

        Raises:
            SettingsRefusal: there is none, or a rule calls it.
        """
        with self._lock:
            self._webhook(webhook_id)
            if self._rules_of(webhook_id):
                raise SettingsRefusal(107052, "The webhook is used in workflow rules.")
            del self.webhooks[webhook_id]
            self._apply()

    def keep_workflow(self, fields: Mapping[str, Any], workflow_id: str | None = None) -> dict[str, Json]:
        """Make a rule, or change one.

        Raises:
            SettingsRefusal: a field is missing or wrong, or there is no such rule.
        """
        with self._lock:
            name, rule_type = fields.get("workflow_name"), fields.get("rule_type")
            actions = fields.get("instant_actions")
            if not isinstance(name, str) or fields.get("entity") != "item" or rule_type not in _EVENTS:
                raise SettingsRefusal(2, "Invalid value passed for rule_type")
            ids = tuple(str(action.get("action_id")) for action in actions) if isinstance(actions, list) else ()
            for webhook_id in ids:
                self._webhook(webhook_id)
            if workflow_id:
                self._workflow(workflow_id)
            workflow = Workflow(workflow_id or next(self._ids), name, "item", str(rule_type), ids)
            self.workflows[workflow.workflow_id] = workflow
            self._apply()
            return workflow.shown()

    def switch_workflow(self, workflow_id: str, *, is_active: bool) -> None:
        """Turn a rule on or off.

        Raises:
            SettingsRefusal: there is no such rule.
        """
        with self._lock:
            self.workflows[workflow_id] = replace(self._workflow(workflow_id), is_active=is_active)
            self._apply()

    def delete_workflow(self, workflow_id: str) -> None:
        """Remove a rule.

        Raises:
            SettingsRefusal: there is no such rule.
        """
        with self._lock:
            self._workflow(workflow_id)
            del self.workflows[workflow_id]
            self._apply()

    def _shown(self, webhook: Webhook) -> dict[str, Json]:
        return webhook.shown([rule.workflow_id for rule in self._rules_of(webhook.webhook_id)])

    def _rules_of(self, webhook_id: str) -> list[Workflow]:
        return [rule for rule in self.workflows.values() if webhook_id in rule.webhook_ids]

    def _webhook(self, webhook_id: str) -> Webhook:
        if webhook_id not in self.webhooks:
            raise SettingsRefusal(1002, "Webhook does not exist.", status=404)
        return self.webhooks[webhook_id]

    def _workflow(self, workflow_id: str) -> Workflow:
        if workflow_id not in self.workflows:
            raise SettingsRefusal(1002, "Workflow does not exist.", status=404)
        return self.workflows[workflow_id]

    def _apply(self) -> None:
        """Deliver what the active rules say; to this machine only."""
        rules, base_url = [], None
        for workflow in self.workflows.values():
            for webhook in (self.webhooks[each] for each in workflow.webhook_ids if each in self.webhooks):
                address = urlsplit(webhook.url)
                if workflow.is_active and address.hostname in _HERE:
                    base_url = f"{address.scheme}://{address.netloc}"
                    events = _EVENTS[workflow.rule_type]
                    rules.append(Rule(workflow.workflow_name, events, address.path, secret=webhook.secret))
        self._deliveries.rules, self._deliveries.base_url = rules, base_url
