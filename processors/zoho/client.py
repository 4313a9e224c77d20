"""Calls to Zoho's Inventory API: every one admitted by the limiter, every answer read by status and code.

Statuses and codes: Zoho's error page (October 2026) and integrators' logs; `docs/decisions.md` lists what is done on
each.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

from processors.errors import (
    BodyUnreadable,
    BudgetSpent,
    NotAuthorised,
    NotConnected,
    WorkError,
    ZohoRefused,
    ZohoUnavailable,
)
from processors.settings import Settings
from processors.store import organization
from processors.store.api_calls import Purpose
from processors.store.database import AWAY, Connection, Pool
from processors.store.zoho_connection import Stored
from processors.zoho import connecting, guard, listing, scopes
from processors.zoho.connecting import Connector, Organisation
from processors.zoho.items import Fields, item_id_of, read_json
from processors.zoho.limiter import BREAKING_CODES, Call, Limiter
from processors.zoho.listing import ListedPage
from processors.zoho.oauth import AccessToken, TokenSource

API_PATH = "/inventory/v1"

SettingsKind = Literal["webhooks", "workflows"]

_TIMEOUT = httpx.Timeout(20, connect=5)
# Longer than this a thread does not sleep for the quota: the work is put off instead.
_PATIENCE = timedelta(seconds=3)
_NO_SUCH_RECORD = frozenset({5, 1002})
_UNAUTHORISED_WAIT = timedelta(minutes=5)
_UNCHOSEN_WAIT = timedelta(seconds=15)
_UNAUTHORISED = frozenset({14, 57})
_SUCCESS = 0


class ZohoClient:
    """The calls that this mirror makes. Thread-safe; one for each process."""

    def __init__(self, pool: Pool, settings: Settings, http: httpx.Client | None = None) -> None:
        """Open the HTTP connections lazily; `http` is for tests that answer in Zoho's place."""
        self._http = http or httpx.Client(timeout=_TIMEOUT, headers={"User-Agent": "zoho-mirror"})
        self._pool = pool
        self._settings = settings
        self._tokens = TokenSource(pool, settings, self._http, self.lacking)
        self.connector = Connector(pool, settings, self._http, self.lacking)
        """Makes and ends the connection that all calls go by."""
        self._limiter = Limiter(
            pool,
            per_minute=settings.zoho_requests_per_minute,
            per_day=settings.zoho_requests_per_day,
            concurrent=settings.zoho_concurrent_requests,
        )

    def __enter__(self) -> Self:
        """Take the connection of the settings over, if there is one."""
        with contextlib.suppress(*AWAY):
            self._tokens.take_over_setting()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def item(self, item_id: str, *, run_id: int | None = None) -> Fields | None:
        """Return one item as Zoho has it now, or None where it answers 404; `run_id` is the run that asks, if one does.

        Raises:
            WorkError: see `processors.errors`; the branch says whether to wait, try again or give up.
        """
        # A lone ".." would be a step up in the address.
        quoted = quote(item_id, safe="").replace(".", "%2E")
        answer = self._request(f"/items/{quoted}", {}, run_id=run_id)
        if answer is None:
            return None
        item = answer.get("item")
        if not isinstance(item, dict):
            message = f"Zoho's answer for item {item_id} has no item"
            raise ZohoUnavailable(message)
        return item

    def items_by_id(self, item_ids: Sequence[str], *, run_id: int) -> dict[str, Fields] | None:
        """Return several items with one call, or None where Zoho answers 404: one of them is gone, not said which.

        An id that is missing from the answer was not answered for.

        Raises:
            WorkError: see `processors.errors`; the branch says whether to wait, try again or give up.
        """
        answer = self._request("/itemdetails", {"item_ids": ",".join(item_ids)}, run_id=run_id)
        if answer is None:
            return None
        found = answer.get("items")
        if not isinstance(found, list):
            message = f"Zoho's answer for {len(item_ids)} items has no items"
            raise ZohoUnavailable(message)
        by_id = {item_id_of(item.get("item_id")): item for item in found if isinstance(item, dict)}
        return {item_id: by_id[item_id] for item_id in item_ids if item_id in by_id}

    def item_page(
        self,
        *,
        page: int,
        per_page: int,
        sort_column: str,
        descending: bool = False,
        modified_since: datetime | None = None,
        run_id: int | None,
    ) -> ListedPage:
        """Return one page of the list of all items, active or not, as it is now.

        `modified_since` is a wish: Zoho is known to ignore filters now and then, and does not say whether this one
        includes its own second. Without a run, the call may use what of the quota is kept for single items.

        Raises:
            WorkError: see `processors.errors`; the branch says whether to wait, try again or give up.
        """
        params = {
            "page": str(page),
            "per_page": str(per_page),
            "filter_by": "Status.All",
            "sort_column": sort_column,
            "sort_order": "D" if descending else "A",
        }
        if modified_since is not None:
            params["last_modified_time"] = modified_since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S%z")
        answer = self._request("/items", params, run_id=run_id, read=listing.read_envelope)
        found = answer and listing.read_page(answer, per_page=per_page)
        if not found:
            message = f"Zoho's answer for page {page} of the items has no items"
            raise ZohoUnavailable(message)
        return found

    def organisations(self) -> list[Organisation]:
        """Return the organisations that whoever consented belongs to.

        Raises:
            WorkError: see `processors.errors`; the branch says whether to wait, try again or give up.
        """
        answer = self._request("/organizations", {}, run_id=None, is_of_organisation=False)
        found = connecting.read_organisations(answer or {})
        if not found:
            message = "Zoho's answer holds no organisation"
            raise ZohoUnavailable(message)
        return found

    def settings_list(self, kind: SettingsKind) -> list[Mapping[str, Any]]:
        """Return all webhooks, or all workflow rules, of the organisation. Undocumented for Inventory.

        Raises:
            WorkError: see `processors.errors`; Zoho may not know this call at all.
        """
        answer = self._request(f"/settings/{kind}", {}, run_id=None)
        found = answer and answer.get(kind)
        if not isinstance(found, list):
            message = f"Zoho's answer for /settings/{kind} holds no {kind}"
            raise ZohoUnavailable(message)
        return [each for each in found if isinstance(each, dict)]

    def change_settings(
        self, method: Literal["POST", "PUT", "DELETE"], path: str, fields: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        """Make, change or remove a webhook or a workflow rule, at `/settings/…`; needs a scope that most have not.

        Raises:
            WorkError: see `processors.errors`; Zoho may not know this call at all.
        """
        answer = self._request(f"/settings/{path}", {}, run_id=None, method=method, fields=fields)
        if answer is None:
            message = f"Zoho has no /settings/{path}"
            raise ZohoRefused(message)
        return answer

    def user(self, organization_id: str) -> str | None:
        """Return who consented; None where Zoho does not tell: it documents this call for Books only."""
        try:
            token = replace(self._tokens.access_token(), organization_id=organization_id)
            # Once: a refusal is not worth another token.
            status, answer = self._call("/users/me", {}, token, run_id=None, read=_object)
        except WorkError:
            return None
        return connecting.read_user(answer) if status == httpx.codes.OK else None

    def lacking(self, token: AccessToken, granted: str | None, present: Stored) -> str | None:
        """Return what a token lacks to do the work of the present connection; None: nothing.

        `granted` are its scopes, as far as Zoho named them: what it does not name is tried.

        Raises:
            WorkError: it cannot be tried now.
        """
        missing = scopes.missing(granted, present.scopes or connecting.SCOPES) if granted is not None else []
        if missing:
            return f"it lacks {', '.join(missing)}"
        with self._pool.connection() as connection:
            owner = organization.owner(connection)
        organization_id = owner or guard.organization_id(self._settings, present)
        answer = self._tried("/organizations", {}, replace(token, organization_id=None))
        if isinstance(answer, str):
            return f"Zoho does not list its organisations ({answer}): it lacks ZohoInventory.settings.READ"
        found = connecting.read_organisations(answer)
        if organization_id is None:
            return None
        if all(each.organization_id != organization_id for each in found):
            return connecting.not_among(organization_id, found)
        params = {"page": "1", "per_page": "1"}
        answer = self._tried("/items", params, replace(token, organization_id=organization_id))
        if isinstance(answer, str):
            return (
                f"Zoho does not list the items of organisation {organization_id} ({answer}): it lacks "
                "ZohoInventory.items.READ, or its user the rights"
            )
        return None

    def _tried(self, path: str, params: Mapping[str, str], token: AccessToken) -> Mapping[str, Any] | str:
        """Return Zoho's answer, or the words of its refusal."""
        status, answer = self._call(path, params, token, run_id=None, read=_object)
        if _is_unauthorised(status, answer) or status == httpx.codes.FORBIDDEN:
            return _told(status, answer)
        try:
            return _read(path, status, answer) or {}
        except ZohoRefused:
            return _told(status, answer)

    def refresh_token_now(self, note: Callable[[Connection], None]) -> None:
        """Replace the access token; `note` is called in the transaction that does it.

        Raises:
            NotConnected, TokenThrottled, ZohoUnavailable: the token stays as it is.
        """
        self._tokens.refresh_now(note)

    def _request(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        run_id: int | None,
        read: Callable[[bytes], Mapping[str, Any] | None] | None = None,
        is_of_organisation: bool = True,
        method: str = "GET",
        fields: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any] | None:
        token = self._tokens.access_token()
        if not is_of_organisation:
            token = replace(token, organization_id=None)
        elif token.organization_id is None:
            message = "no organisation is chosen: choose one in the console, or set ZOHO_ORGANIZATION_ID"
            raise NotConnected(message, _UNCHOSEN_WAIT)
        elif token.organization_id != token.mirrored_organization_id:
            message = guard.other_organisation(token.organization_id, str(token.mirrored_organization_id))
            raise NotConnected(message, guard.LOOKED_AGAIN_AFTER)
        call = partial(self._call, path, params, run_id=run_id, read=read or _object, method=method, fields=fields)
        status, answer = call(token)
        if _is_unauthorised(status, answer):
            # Code 14 or 57. Either may mean an old token; the second answer tells.
            token = replace(self._tokens.access_token(rejected=token), organization_id=token.organization_id)
            status, answer = call(token)
        if _is_unauthorised(status, answer) or status == httpx.codes.FORBIDDEN:
            # Zoho documents no 403; a firewall or an allow-list in between answers so, and not because of the item.
            message = (
                f"Zoho does not authorise {path} ({_told(status, answer)}): "
                "check ZOHO_ORGANIZATION_ID, ZOHO_DATA_CENTER and the scopes of the connection"
            )
            raise NotAuthorised(message, _UNAUTHORISED_WAIT)
        return _read(path, status, answer)

    def _call(
        self,
        path: str,
        params: Mapping[str, str],
        token: AccessToken,
        *,
        run_id: int | None,
        read: Callable[[bytes], Mapping[str, Any] | None],
        method: str = "GET",
        fields: Mapping[str, Any] | None = None,
    ) -> tuple[int, Mapping[str, Any]]:
        organisation = {} if token.organization_id is None else {"organization_id": token.organization_id}
        purpose: Purpose = "item" if run_id is None else "sweep"
        with self._limiter.call(purpose, patience=_PATIENCE, run_id=run_id) as call:
            try:
                response = self._http.request(
                    method,
                    f"{token.api_url}{API_PATH}{path}",
                    params={**params, **organisation},
                    headers={"Authorization": f"Zoho-oauthtoken {token.value}"},
                    json=fields,
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                message = f"no answer from Zoho for {path}: {error!r}"
                raise ZohoUnavailable(message) from error
            call.status = response.status_code
            call.retry_after = _retry_after(response)
            answer = read(response.content)
            call.code = _code(answer or {})
        _raise_if_closed(call)
        if answer is None and response.status_code not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            message = f"Zoho answered {response.status_code} for {path} with something that is no JSON object"
            raise ZohoUnavailable(message)
        return response.status_code, answer or {}


def _object(content: bytes) -> Mapping[str, Any] | None:
    try:
        answer = read_json(content)
    except BodyUnreadable:
        return None
    return answer if isinstance(answer, dict) else None


def _is_unauthorised(status: int, answer: Mapping[str, Any]) -> bool:
    # Integrators saw the codes with 401; nobody documents the pair.
    return status == httpx.codes.UNAUTHORIZED or _code(answer) in _UNAUTHORISED


def _raise_if_closed(call: Call) -> None:
    if call.code in BREAKING_CODES or call.status == httpx.codes.TOO_MANY_REQUESTS:
        message = f"Zoho's quota is used up: it answered {call.status} with code {call.code}"
        raise BudgetSpent(message, call.retry_after or timedelta(minutes=1))


def _read(path: str, status: int, answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the body of a success, None for a record that is not there, or raise."""
    code = _code(answer)
    if code in _NO_SUCH_RECORD and status in (httpx.codes.NOT_FOUND, httpx.codes.OK, httpx.codes.BAD_REQUEST):
        return None
    if status in (httpx.codes.OK, httpx.codes.CREATED) and code in (_SUCCESS, None):
        return answer
    message = f"Zoho answered {_told(status, answer)} for {path}"
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in (httpx.codes.OK, httpx.codes.NOT_FOUND):
        # A 404 without Zoho's own code is a wrong address or a proxy, and says nothing about the record.
        raise ZohoUnavailable(message)
    raise ZohoRefused(message)


def _code(answer: Mapping[str, Any]) -> int | None:
    code = answer.get("code")
    if isinstance(code, str) and re.fullmatch(r"\d{1,9}", code):
        return int(code)
    return code if isinstance(code, int) and abs(code) < 2**31 else None


def _told(status: int, answer: Mapping[str, Any]) -> str:
    return f"{status}, code {_code(answer)}, {str(answer.get('message', ''))[:200]!r}"


def _retry_after(response: httpx.Response) -> timedelta | None:
    """Zoho documents none, but a proxy may send one; a date form is ignored."""
    seconds = response.headers.get("Retry-After", "")
    return timedelta(seconds=min(int(seconds), 86_400)) if re.fullmatch(r"\d{1,9}", seconds) else None
