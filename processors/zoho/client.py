"""Calls to Zoho's Inventory API: every one admitted by the limiter, every answer read by status and code.

Statuses and codes: Zoho's error page (October 2026) and integrators' logs; `docs/decisions.md` lists what is done on
each.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

from processors.errors import (
    BodyUnreadable,
    BudgetSpent,
    NotAuthorised,
    NotConnected,
    RefusalUnexplained,
    WorkError,
    ZohoAway,
    ZohoRefused,
    ZohoUnavailable,
)
from processors.settings import Settings
from processors.store import api_calls, organization
from processors.store.api_calls import Purpose
from processors.store.database import AWAY, Connection, Pool
from processors.store.zoho_connection import Stored
from processors.zoho import answers, connecting, guard, listing, scopes
from processors.zoho.connecting import Connector, Organisation
from processors.zoho.items import Fields, item_id_of, read_json
from processors.zoho.limiter import Call, Limiter
from processors.zoho.listing import ListedPage
from processors.zoho.oauth import AccessToken, TokenSource

API_PATH = "/inventory/v1"

SettingsKind = Literal["webhooks", "workflows"]

_TIMEOUT = httpx.Timeout(20, connect=5)
# Longer than this a thread does not sleep for the quota: the work is put off instead.
_PATIENCE = timedelta(seconds=3)
_UNAUTHORISED_WAIT = timedelta(minutes=5)
_UNCHOSEN_WAIT = timedelta(seconds=15)
_LIST = "/items"
# Some of Zoho's products answer so where there is nothing to show.
_SILENT = (httpx.codes.OK, httpx.codes.NO_CONTENT)


def _object(content: bytes) -> Mapping[str, Any] | None:
    try:
        answer = read_json(content)
    except BodyUnreadable:
        return None
    return answer if isinstance(answer, dict) else None


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of Zoho."""

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    run_id: int | None = None
    about: Sequence[str] | None = None
    """What the mirror's own work asks for; None: what is called says nothing of that work."""
    holds: tuple[str, type] | None = None
    """The key that a success has, and the type of its value."""
    read: Callable[[bytes], Mapping[str, Any] | None] = _object
    method: str = "GET"
    fields: Mapping[str, Any] | None = None
    """A body to send."""
    is_persons: bool = False


def _about_item(item_id: str, run_id: int | None) -> _Question:
    # A lone ".." would be a step up in the address.
    quoted = quote(item_id, safe="").replace(".", "%2E")
    return _Question(f"/items/{quoted}", run_id=run_id, about=[item_id], holds=("item", dict))


class ZohoClient:
    """The calls that this mirror makes. Thread-safe; one for each process."""

    def __init__(
        self, pool: Pool, settings: Settings, http: httpx.Client | None = None, *, is_persons: bool = False
    ) -> None:
        """Open the HTTP connections lazily; `http` is for tests that answer in Zoho's place.

        `is_persons`: somebody waits to see what Zoho says now, and only its quota may keep it from being asked.
        """
        self._pool = pool
        self._is_persons = is_persons
        self._http = http or httpx.Client(timeout=_TIMEOUT, headers={"User-Agent": "zoho-mirror"})
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
        answer = self._ask(_about_item(item_id, run_id))
        return None if answer is None else answer["item"]

    def items_by_id(self, item_ids: Sequence[str], *, run_id: int | None = None) -> dict[str, Fields] | None:
        """Return several items with one call, or None where Zoho answers 404: one of them is gone, not said which.

        An id that is missing from the answer was not answered for.

        Raises:
            WorkError: see `processors.errors`; the branch says whether to wait, try again or give up.
        """
        params = {"item_ids": ",".join(item_ids)}
        answer = self._ask(_Question("/itemdetails", params, run_id, about=item_ids, holds=("items", list)))
        if answer is None:
            return None
        found = answer["items"]
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
        answer = self._ask(_Question(_LIST, params, run_id, about=[_LIST], read=listing.read_envelope))
        # Behind its end a list has many spellings; at its beginning, only of what was modified there may be nothing.
        may_be_end = page > 1 or modified_since is not None
        found = None if answer is None else listing.read_page(answer, per_page=per_page, may_be_end=may_be_end)
        if not found:
            message = f"Zoho's answer for page {page} of the items has no items"
            raise ZohoUnavailable(message)
        return found

    def organisations(self) -> list[Organisation]:
        """Return the organisations that whoever consented belongs to.

        Raises:
            WorkError: see `processors.errors`; the branch says whether to wait, try again or give up.
        """
        answer = self._ask(_Question("/organizations"), is_of_organisation=False)
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
        answer = self._ask(_Question(f"/settings/{kind}"))
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
        answer = self._ask(_Question(f"/settings/{path}", method=method, fields=fields))
        if answer is None:
            message = f"Zoho has no /settings/{path}"
            raise ZohoRefused(message)
        return answer

    def user(self, organization_id: str) -> str | None:
        """Return who consented; None where Zoho does not tell: it documents this call for Books only."""
        try:
            token = replace(self._tokens.access_token(), organization_id=organization_id)
            # Once: a refusal is not worth another token.
            call, answer = self._call(_Question("/users/me"), token)
        except WorkError:
            return None
        return connecting.read_user(answer) if call.verdict == "good" else None

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
        question = _Question(path, params, is_persons=True)
        call, answer = self._call(question, token)
        if call.verdict in ("good", "gone"):
            return answer if call.verdict == "good" else {}
        if call.verdict in ("unauthorised", "installation", "refused"):
            return answers.told(call.status or 0, answer)
        raise self._of_failure(question, call, token)

    def refresh_token_now(self, note: Callable[[Connection], None]) -> None:
        """Replace the access token; `note` is called in the transaction that does it.

        Raises:
            NotConnected, TokenThrottled, ZohoUnavailable: the token stays as it is.
        """
        self._tokens.refresh_now(note)

    def _ask(self, question: _Question, *, is_of_organisation: bool = True) -> Mapping[str, Any] | None:
        """Return the body of a success, None for a record that is not there, or raise."""
        token = self._tokens.access_token()
        if not is_of_organisation:
            token = replace(token, organization_id=None)
        elif token.organization_id is None:
            message = "no organisation is chosen: choose one in the console, or set ZOHO_ORGANIZATION_ID"
            raise NotConnected(message, _UNCHOSEN_WAIT)
        elif token.organization_id != token.mirrored_organization_id:
            message = guard.other_organisation(token.organization_id, str(token.mirrored_organization_id))
            raise NotConnected(message, guard.LOOKED_AGAIN_AFTER)
        call, answer = self._call(question, token)
        if call.verdict == "unauthorised":
            # Code 14 or 57. Either may mean an old token; the second answer tells.
            token = replace(self._tokens.access_token(rejected=token), organization_id=token.organization_id)
            call, answer = self._call(question, token, is_token_fresh=True)
        if call.verdict in ("good", "gone"):
            return answer if call.verdict == "good" else None
        raise self._of_failure(question, call, token)

    def _of_failure(self, question: _Question, call: Call, token: AccessToken) -> WorkError:
        message = call.reason or "Zoho gave no usable answer"
        match call.verdict:
            case "refused":
                return self._of_refusal(question, call, token)
            case "quota":
                # Zoho's own words for its codes are long, and the same for each.
                told = message if call.code is None else f"Zoho answered {call.status}, code {call.code}"
                return BudgetSpent(f"Zoho's quota is used up: {told}", call.retry_after or timedelta(minutes=1))
            case "installation":
                if call.closed_by:
                    self._tell_organisations()
                return NotAuthorised(_refused_for_all(call), call.retry_after or _UNAUTHORISED_WAIT)
            case _ if call.closed_by and call.retry_after:
                text = f"Zoho said nothing usable several times in a row; the last time: {message}"
                return ZohoAway(text, call.retry_after)
            case _:
                return ZohoUnavailable(message)

    def _of_refusal(self, question: _Question, call: Call, token: AccessToken) -> WorkError:
        """Return what a refusal that is in no table means: it is the installation's until others are seen to be given.

        What is refused twice in a row is refused for all, unless an item that Zoho gave once is given now.
        """
        message = call.reason or "Zoho refused"
        if call.about is None:
            return ZohoRefused(message)
        with self._pool.connection() as connection:
            standing = api_calls.standing(connection, call.id, call.about)
            control = None
            if standing.is_second and not standing.is_its_own:
                control = api_calls.live_item(connection, besides=call.about)
        if standing.is_its_own:
            return ZohoRefused(message)
        if not standing.is_second or (control is None and not standing.is_of_others):
            return RefusalUnexplained(message)
        if control is not None:
            shown, _ = self._call(_about_item(control, question.run_id), token)
            if shown.verdict in ("good", "gone"):
                return ZohoRefused(message)
            if shown.verdict != "refused":
                return RefusalUnexplained(message)
        if self._is_persons:
            return NotAuthorised(_refused_for_all(call), _UNAUTHORISED_WAIT)
        error = self._limiter.refuse_all(call)
        self._tell_organisations()
        return error

    def _tell_organisations(self) -> None:
        """Keep which organisations this login reaches, once for each closing: often one of them is what was meant."""
        with self._pool.connection() as connection:
            if not api_calls.claim_organizations(connection):
                return
        with contextlib.suppress(WorkError):
            token = replace(self._tokens.access_token(), organization_id=None)
            call, answer = self._call(_Question("/organizations", is_persons=True), token)
            found = connecting.read_organisations(answer) if call.verdict == "good" else []
            if found:
                with self._pool.connection() as connection:
                    api_calls.keep_organizations(connection, connecting.listed(found))

    def _call(
        self, question: _Question, token: AccessToken, *, is_token_fresh: bool = False
    ) -> tuple[Call, Mapping[str, Any]]:
        """Make one call, and let all processes know what its answer says."""
        path, about = question.path, question.about
        organisation = {} if token.organization_id is None else {"organization_id": token.organization_id}
        purpose: Purpose = "item" if question.run_id is None else "sweep"
        admitted = self._limiter.call(
            purpose,
            patience=_PATIENCE,
            run_id=question.run_id,
            by=token.connection,
            organization_id=token.organization_id,
            about=about,
            is_persons=question.is_persons or self._is_persons,
        )
        with admitted as call:
            try:
                response = self._http.request(
                    question.method,
                    f"{token.api_url}{API_PATH}{path}",
                    params={**question.params, **organisation},
                    headers={"Authorization": f"Zoho-oauthtoken {token.value}"},
                    json=question.fields,
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                call.verdict, call.reason = "unusable", f"no answer from Zoho for {path}: {error!r}"
                return call, {}
            call.status = response.status_code
            call.retry_after = _retry_after(response)
            answer = question.read(response.content)
            if about == [_LIST] and response.status_code in _SILENT and not response.content.strip():
                answer = {"code": 0}
            call.code = answers.code_of(answer or {})
            call.verdict = answers.judge(response.status_code, answer, response.content)
            call.reason = f"Zoho answered {answers.told(response.status_code, answer or {})} for {path}"
            if answer is None:
                call.reason = (
                    f"Zoho answered {response.status_code} for {path} with something that is no JSON object: "
                    f"{_beginning(response)!r}"
                )
            if about == [_LIST] and call.verdict == "gone":
                # That a list does not exist says nothing of any item.
                call.verdict = "unusable"
            key, kind = question.holds or ("", object)
            if call.verdict == "good" and not isinstance((answer or {}).get(key), kind):
                call.verdict, call.reason = "unusable", f"Zoho's answer for {path} has no {key}"
            if call.verdict == "unauthorised" and is_token_fresh:
                call.verdict = "installation"
        return call, answer or {}


def _refused_for_all(call: Call) -> str:
    return (
        f"Zoho refuses this installation ({call.reason}): check ZOHO_ORGANIZATION_ID, ZOHO_DATA_CENTER, the "
        "subscription and the scopes of the connection"
    )


def _beginning(response: httpx.Response) -> str:
    """Return the first words of a page for people, without its markup."""
    text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", response.text[:5000], flags=re.DOTALL | re.IGNORECASE)
    return " ".join(text.split())[:100]


def _retry_after(response: httpx.Response) -> timedelta | None:
    """Zoho documents none, but a proxy may send one; a date form is ignored."""
    seconds = response.headers.get("Retry-After", "")
    return timedelta(seconds=min(int(seconds), 86_400)) if re.fullmatch(r"\d{1,9}", seconds) else None
