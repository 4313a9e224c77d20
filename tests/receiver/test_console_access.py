"""Who comes into the console, who may act there, and what is answered to everybody else."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from http.cookies import Morsel, SimpleCookie
from itertools import product
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from itsdangerous import URLSafeSerializer

from processors.store.database import Pool
from processors.workflows import access
from receiver.console.sessions import COOKIE
from tests.receiver.conftest import Serve, Visit
from tests.receiver.programs import SHELL
from tests.receiver.serving import Rows, Web
from tests.receiver.visitors import (
    CSRF_COOKIE,
    CSRF_FIELD,
    PASSWORD,
    SESSION_SECRET,
    Browser,
    addresses,
    everything,
    furnish,
    person,
    sign,
)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ELSEWHERE = (
    "/console/nothing",
    "/console//products",
    "/console/loginx",
    "/console/login/",
    "/console/login/list",
    "/console/LOGIN",
    "/console/%2e%2e/console/products",
    "/console/login%2f..%2fproducts",
    "/console/products/",
    "/console/_api/events/",
)
PUBLIC = {"/console", "/console/login"}
INSIDE = sorted({each.path for each in addresses() if each.path not in PUBLIC and each.path.startswith("/console")})
POSTED = [path for path in INSIDE if any(each.path == path and "POST" in each.methods for each in addresses())]
# What a viewer has to do with: one's own account.
ONES_OWN = {"/console/logout", "/console/account/password", "/console/account/sign-out-everywhere"}
# Pages that lead to an action.
LEAD_TO_ACTS = {
    "/console/events/replay",
    "/console/events/discard",
    "/console/zoho/connect",
    "/console/zoho/callback",
    "/console/zoho/organisations",
}
OUTSIDE = (
    "//evil.example",
    "https://evil.example",
    "https:evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "javascript:alert(1)",
    "/console/../x",
    "/console/..",
    "/console/a/../../x",
    "/console/%2e%2e/x",
    "/console/%2E./x",
    "/console/./../x",
    "/console\\..\\x",
    "\t//evil.example",
    "/\t/evil.example",
    "/console/\t../x",
    "/console/\n../x",
    "/console/\0",
    "/console/\r\nSet-Cookie: a=b",
    "/consoles",
    "/console",
    "@evil.example",
    "console/",
    " /console/",
    "/console/\u202e",
)


def test_the_walk_meets_every_address() -> None:
    assert len(INSIDE) >= 45
    assert len(POSTED) >= 20
    assert set(INSIDE) > LEAD_TO_ACTS
    assert set(POSTED) > ONES_OWN


# Without a session


def assert_turned_away(answer: httpx.Response) -> None:
    assert answer.status_code == 302, f"{answer.url}: {answer.text}"
    assert re.fullmatch(r"/console/login(\?next=[^&]*)?", answer.headers["location"])
    assert answer.content == b""
    assert "set-cookie" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", METHODS)
def test_without_a_session_every_method_at_every_address_leads_to_the_sign_in_page(console: Web, method: str) -> None:
    for path in (*INSIDE, *ELSEWHERE):
        assert_turned_away(console.client.request(method, path))


def test_without_a_session_the_way_to_zoho_leads_to_the_sign_in_page(console: Web) -> None:
    ways = [each.path for each in addresses() if each.path.startswith("/oauth")]
    assert len(ways) == 2
    for path, method in product(ways, METHODS):
        answer = console.client.request(method, f"{path}?code=c&state=s")
        if method in ("GET", "HEAD"):
            assert answer.status_code == 302
            assert answer.content == b""
            assert_turned_away(console.client.get(answer.headers["location"]))
        else:
            assert answer.status_code == 405


def test_what_is_no_session_opens_nothing(operator: Browser, rows: Rows) -> None:
    real = operator.session
    token = URLSafeSerializer(SESSION_SECRET, salt="session").loads(real)
    forged = (
        "",
        "garbled",
        real[:-1],
        f"{real}A",
        ("A" if real[3] != "A" else "B").join((real[:3], real[4:])),
        token,
        sign(token, secret="another secret of more than 32 characters"),
        str(URLSafeSerializer(SESSION_SECRET, salt="starlette-admin-csrf").dumps(token)),
        sign("a token that was never given"),
        sign({"token": token}),
        sign([token]),
        "A" * 8_000,
        "\xff\xfe",
    )
    paths = ("/console/", "/console/products/list", "/console/products/export.csv", "/console/zoho/callback")
    before = everything(rows)
    for cookie, path, method in product(forged, paths, ("GET", "HEAD", "POST")):
        headers = {b"Cookie": COOKIE.encode() + b"=" + cookie.encode("latin-1")}
        assert_turned_away(operator.web.client.request(method, path, headers=headers))
    assert everything(rows) == before
    assert operator.get("").status_code == 200


def end_by(what: str, browser: Browser, pool: Pool, rows: Rows) -> None:
    match what:
        case "time":
            rows("UPDATE sessions SET expires_at = now() - interval '1 second'")
        case "a week":
            rows("UPDATE sessions SET created_at = now() - interval '8 days', expires_at = now()")
        case "signing out":
            assert browser.post("logout").headers["location"] == "/console/login"
        case "signing out everywhere":
            assert browser.post("account/sign-out-everywhere").headers["location"] == "/console/login"
        case "another password":
            access.change_password(pool, "olga", "another good password", SHELL)
        case "removal":
            access.remove_operator(pool, "olga", SHELL)


@pytest.mark.parametrize(
    "what", ["time", "a week", "signing out", "signing out everywhere", "another password", "removal"]
)
def test_a_session_that_is_over_opens_nothing(operator: Browser, pool: Pool, rows: Rows, what: str) -> None:
    kept = dict(operator.cookies)
    assert operator.get("").status_code == 200
    end_by(what, operator, pool, rows)
    operator.cookies = kept
    for path in INSIDE:
        for method in ("GET", "POST"):
            assert_turned_away(operator.client.request(method, path, data={CSRF_FIELD: operator.csrf}))
    assert rows("SELECT 1 FROM sessions WHERE expires_at > now()") == []


def test_signing_out_everywhere_ends_the_sessions_of_all_ones_browsers(operator: Browser, visit: Visit) -> None:
    other = visit()
    other.sign_in("olga")
    assert other.shows("account").count('">this one<') == 1
    operator.post("account/sign-out-everywhere")
    assert_turned_away(other.get("account"))


def test_another_session_secret_signs_everybody_out(operator: Browser, visit: Visit, serve: Serve) -> None:
    other = visit(serve(SESSION_SECRET="another secret of more than 32 characters"))
    other.cookies = dict(operator.cookies)
    assert_turned_away(other.get(""))


def test_a_role_that_is_taken_holds_from_the_next_request(operator: Browser, pool: Pool) -> None:
    access.change_role(pool, "olga", "viewer", SHELL)
    assert operator.post("runs", {"kind": "full"}).status_code == 403


# The sign-in


def session_cookie(answer: httpx.Response) -> Morsel[str]:
    (line,) = [each for each in answer.headers.get_list("set-cookie") if each.startswith(COOKIE)]
    return SimpleCookie(line)[COOKIE]


def test_the_session_cookie_is_for_this_host_alone_and_for_no_script(visit: Visit, pool: Pool) -> None:
    cookie = session_cookie(visit().sign_in(person(pool, "olga", "operator")))
    assert cookie.key.startswith("__Host-")
    assert (cookie["secure"], cookie["httponly"], cookie["samesite"].lower()) == (True, True, "lax")
    assert (cookie["path"], cookie["domain"]) == ("/", "")
    assert 0 < int(cookie["max-age"]) <= 7 * 86_400


def test_each_sign_in_opens_a_session_of_its_own(operator: Browser, rows: Rows) -> None:
    first = operator.session
    operator.cookies[COOKIE] = sign("chosen by somebody else")
    operator.sign_in("olga")
    assert operator.session not in (first, sign("chosen by somebody else"))
    assert operator.get("").status_code == 200
    assert len(rows("SELECT 1 FROM sessions")) == 2


def test_signing_out_ends_the_session_in_the_database_and_in_the_browser(operator: Browser, rows: Rows) -> None:
    answer = operator.post("logout")
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")
    assert COOKIE not in operator.cookies
    assert rows("SELECT 1 FROM sessions") == []


def test_signing_out_by_a_link_does_nothing(operator: Browser) -> None:
    assert operator.get("logout").status_code == 405
    assert operator.get("").status_code == 200


def test_a_wrong_name_and_a_wrong_password_are_answered_alike(visit: Visit, pool: Pool) -> None:
    person(pool, "olga", "operator")

    def answered(name: str) -> tuple[int, str]:
        browser = visit()
        answer = browser.sign_in(name, "a wrong password")
        assert COOKIE not in browser.cookies
        text = re.sub(r'nonce="[^"]+"', "", answer.text)
        return answer.status_code, text.replace(name, "NAME").replace(browser.csrf, "TOKEN")

    assert answered("olga") == answered("nobody")
    assert answered("olga")[0] == 401


def test_after_failures_nobody_is_let_in_and_is_told_until_when(visit: Visit, pool: Pool, rows: Rows) -> None:
    browser = visit()
    person(pool, "olga", "operator")
    for _ in range(5):
        assert browser.sign_in("olga", "a wrong password").status_code == 401
    answer = browser.sign_in("olga")
    assert answer.status_code == 429
    assert "15 minutes" in answer.text
    assert COOKIE not in browser.cookies
    assert rows("SELECT 1 FROM sessions") == []
    rows("UPDATE audit_log SET at = at - interval '16 minutes'")
    assert browser.sign_in("olga").status_code == 303


def test_passwords_are_guessed_no_faster_by_changing_them(operator: Browser) -> None:
    for _ in range(5):
        answer = operator.post("account/password", {"password": "a guess", "new_password": "another good password"})
        assert answer.status_code == 400
    answer = operator.post("account/password", {"password": PASSWORD, "new_password": "another good password"})
    assert "15 minutes" in answer.text


def test_without_an_operator_the_sign_in_page_says_how_to_make_one(visit: Visit) -> None:
    page = visit().shows("login")
    assert "operator add" in page
    assert "<form" not in page


def test_who_is_signed_in_is_not_asked_again(operator: Browser) -> None:
    answer = operator.get("login?next=/console/runs/list")
    assert (answer.status_code, answer.headers["location"]) == (302, "/console/runs/list")


def test_after_signing_in_one_is_where_one_wanted_to_be(visit: Visit, pool: Pool) -> None:
    person(pool, "olga", "operator")
    browser = visit()
    wanted = "/console/events/list?state=dead&error=a%26b"
    turned_away = browser.client.get(wanted)
    answer = browser.sign_in("olga", path=turned_away.headers["location"].removeprefix("/console/"))
    assert answer.headers["location"] == wanted


def test_signing_in_leads_nowhere_outside_the_console(operator: Browser) -> None:
    for wanted in OUTSIDE:
        answer = operator.client.get("/console/login", params={"next": wanted})
        assert answer.status_code == 302, wanted
        assert answer.headers["location"] == "/console/", wanted
        operator.cookies.pop(COOKIE)
        answer = operator.client.post(
            "/console/login",
            params={"next": wanted},
            data={"username": "olga", "password": PASSWORD, CSRF_FIELD: operator.csrf},
        )
        assert answer.status_code == 303, wanted
        assert answer.headers["location"] == "/console/", wanted
        assert set(operator.cookies) <= {COOKIE, CSRF_COOKIE}


def test_an_action_of_a_list_leads_nowhere_outside_the_console(operator: Browser) -> None:
    for wanted, name in product(OUTSIDE, ("replay", "discard", "export", "delete", "nothing")):
        answer = operator.client.post(
            "/console/_api/events/action",
            params={"name": name, "pks": ["1", "2"], "_origin": wanted},
            headers={"X-CSRFToken": operator.csrf},
        )
        if answer.status_code == 303:
            assert answer.headers["location"] == f"/console/events/{name}?event=1&event=2"
        else:
            assert answer.status_code == 400
            assert answer.json().keys() == {"msg"}


def test_what_a_list_was_filtered_by_leads_nowhere_outside_the_console(operator: Browser) -> None:
    for query in ("state=dead&error=//evil.example", "?kind=changed#//evil", "error=%0d%0aSet-Cookie: a=b"):
        answer = operator.client.post(
            "/console/_api/events/action",
            params={"name": "replay", "all": "1", "_list_query": query},
            headers={"X-CSRFToken": operator.csrf},
        )
        assert answer.status_code in (303, 400)
        location = answer.headers.get("location", "/console/events/replay?")
        assert location.startswith("/console/events/replay?")


def test_a_foreign_host_is_led_to_nobody_else_and_kept_by_nobody(visit: Visit, pool: Pool, rows: Rows) -> None:
    person(pool, "olga", "operator")
    browser = visit(Host="evil.example")
    before = everything(rows)
    for path in ("", "login/", "products", "nothing"):
        answer = browser.get(path)
        target = urljoin("http://evil.example/console/", answer.headers["location"])
        assert urlsplit(target).netloc == "evil.example"
    assert everything(rows) == before
    browser.sign_in("olga")
    assert browser.get("products").headers["location"] == "/console/products/list"
    assert "evil.example" not in str(rows("SELECT * FROM sessions")) + str(rows("SELECT * FROM audit_log"))


def test_a_host_header_that_names_no_host_is_answered_400(operator: Browser) -> None:
    hosts = ('a"><script>', "[", "evil:abc", "a b", "", "x:999999", "a/b", "a@b", "a'b", "[::1", "::1")
    for host, path in product(hosts, ("login", "", "webhooks", "zoho", "products/list")):
        answer = operator.get(path, headers={"Host": host})
        assert answer.status_code == 400, (host, path)
        assert "<" not in answer.text


# Forged forms


def without_proof(browser: Browser, other: Browser, kind: str) -> dict[str, Any]:
    """Return a request that the console's own form did not make."""
    real, foreign = browser.csrf, other.csrf
    assert real != foreign
    forged_token = str(URLSafeSerializer("a guess", salt="starlette-admin-csrf").dumps("0" * 64))
    kinds: dict[str, dict[str, Any]] = {
        "no token": {"data": {}},
        "an empty token": {"data": {CSRF_FIELD: ""}},
        "a forged token": {"data": {CSRF_FIELD: forged_token}},
        "another visitor's token": {"data": {CSRF_FIELD: foreign}},
        "another visitor's token in the header": {"headers": {"X-CSRFToken": foreign}},
        "the token in the address": {"params": {CSRF_FIELD: real}},
        "the token in a body of another type": {"json": {CSRF_FIELD: real}},
        "the cookie's session for a token": {"data": {CSRF_FIELD: browser.session}},
    }
    return kinds[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "no token",
        "an empty token",
        "a forged token",
        "another visitor's token",
        "another visitor's token in the header",
        "the token in the address",
        "the token in a body of another type",
        "the cookie's session for a token",
    ],
)
def test_a_form_without_proof_is_answered_403_and_does_nothing(
    operator: Browser, viewer: Browser, pool: Pool, rows: Rows, kind: str
) -> None:
    furnish(pool, rows)
    given = without_proof(operator, viewer, kind)
    before = everything(rows)
    for path in POSTED:
        answer = operator.client.post(path, **given)
        assert answer.status_code == 403, path
    assert everything(rows) == before


def test_a_token_without_its_cookie_or_with_a_forged_one_proves_nothing(operator: Browser, rows: Rows) -> None:
    token = operator.csrf
    before = everything(rows)
    for cookie in (None, "", "forged", token[:-1], f"{token}A"):
        operator.cookies.pop(CSRF_COOKIE, None)
        if cookie is not None:
            operator.cookies[CSRF_COOKIE] = cookie
        for path in POSTED:
            assert operator.client.post(path, data={CSRF_FIELD: token}).status_code == 403
    assert everything(rows) == before


@pytest.mark.parametrize(
    "said",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "https://localhost"},
        {"Origin": "https://evil.example"},
        {"Origin": "https://localhost.evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_form_of_another_sites_page_is_answered_403_whatever_it_proves(
    operator: Browser, rows: Rows, said: dict[str, str]
) -> None:
    before = everything(rows)
    answer = operator.post("access/tokens", {"name": "shop", "scope": "read"}, headers={"Host": "localhost", **said})
    assert answer.status_code == 403
    assert everything(rows) == before
    assert operator.client.get("/console/", headers={"Host": "localhost", **said}).status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},  # what some browsers say where no referrer is told
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://localhost"},
    ],
)
def test_a_form_of_the_consoles_own_page_is_taken(operator: Browser, rows: Rows, said: dict[str, str]) -> None:
    operator.post("access/tokens", {"name": "shop", "scope": "read"}, headers={"Host": "localhost", **said})
    assert [row["name"] for row in rows("SELECT name FROM api_tokens")] == ["shop"]


def test_nobody_is_signed_in_by_a_form_of_somebody_else(visit: Visit, pool: Pool, rows: Rows) -> None:
    person(pool, "olga", "operator")
    browser = visit()
    answer = browser.client.post("/console/login", data={"username": "olga", "password": PASSWORD})
    assert answer.status_code == 403
    assert rows("SELECT 1 FROM sessions") == []


# Who only sees


def test_a_viewer_sees_every_page(viewer: Browser, pool: Pool, rows: Rows) -> None:
    for page in furnish(pool, rows).values():
        viewer.shows(page)


def test_a_viewer_finds_no_button_that_acts(viewer: Browser, pool: Pool, rows: Rows) -> None:
    own = {"/console/logout", "/console/account/password", "/console/account/sign-out-everywhere"}
    for page in furnish(pool, rows).values():
        forms = set(re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', viewer.shows(page)))
        forms |= set(re.findall(r'<form[^>]*action="([^"]*)"[^>]*method="post"', viewer.shows(page)))
        assert forms <= own, page


def test_a_viewer_cannot_act(viewer: Browser, pool: Pool, rows: Rows) -> None:
    furnish(pool, rows)
    before = everything(rows)
    fields = {"kind": "full", "name": "x", "scope": "write", "state": "dead", "total": "3", "reason": "r", "event": "1"}
    for path, name in product(set(POSTED) - ONES_OWN, ("replay", "discard", "export", "delete", "view", "edit")):
        answer = viewer.client.post(
            path, params={"name": name, "pks": "1", "pk": "1"}, data={CSRF_FIELD: viewer.csrf, **fields}
        )
        if path.startswith("/console/_api/"):
            assert answer.status_code in (400, 403), path
        else:
            assert answer.status_code == 403, path
            assert "vera is a viewer" in answer.text
    assert everything(rows) == before


def test_a_viewer_is_not_led_to_an_action(viewer: Browser, pool: Pool, rows: Rows) -> None:
    furnish(pool, rows)
    before = everything(rows)
    for path, method in product(LEAD_TO_ACTS, ("GET", "HEAD")):
        answer = viewer.client.request(method, path, params={"state": "dead", "code": "c"})
        assert answer.status_code == 403, path
    assert everything(rows) == before


def test_viewers_keep_their_own_account(viewer: Browser, visit: Visit, rows: Rows) -> None:
    answer = viewer.post("account/password", {"password": PASSWORD, "new_password": "another good password"})
    assert "is changed" in viewer.told(answer)
    other = visit()
    assert other.sign_in("vera").status_code == 401
    assert other.sign_in("vera", "another good password").status_code == 303
    assert viewer.post("account/sign-out-everywhere").status_code == 303
    assert rows("SELECT 1 FROM sessions") == []


# What the frame brings along


KEYS = ("products", "events", "replays", "runs", "audit", "nothing")
BROUGHT_ALONG = [
    *(f"{key}/{what}" for key, what in product(KEYS, ("create", "edit?pk=1", "import"))),
    *(
        f"_api/{key}/{what}"
        for key, what in product(
            KEYS,
            (
                "import",
                "inline-edit?pk=1&field=name",
                "inline-edit/row?pk=1",
                "relation-lookup?q=a",
                "relation-lookup?pks=1",
                "row-action?name=delete&pk=1",
                "row-action?name=edit&pk=1",
                "row-action?name=view&pk=1",
                "row-action",
                "action",
                "action?name=delete&pks=1",
                "action?name=export&all=1",
                "action?name=nothing&pks=1",
                "action?pks=1",
            ),
        )
    ),
    "_files/local/etc/passwd",
    "_files/local/..%2f..%2fetc%2fpasswd",
]


def test_what_the_frame_brings_along_edits_nothing(operator: Browser, pool: Pool, rows: Rows) -> None:
    furnish(pool, rows)
    before = everything(rows)
    headers = {"X-CSRFToken": operator.csrf}
    for path, method in product(BROUGHT_ALONG, ("GET", "POST")):
        form = {"name": "changed", "price": "1"} if method == "POST" else None
        answer = operator.client.request(method, f"/console/{path}", headers=headers, data=form)
        assert answer.status_code in (400, 403, 404, 405), (method, path)
        assert "root:" not in answer.text
    assert everything(rows) == before


# When something is missing


def test_without_a_session_secret_the_console_is_off_and_webhooks_work(web: Web) -> None:
    for path in ("/console", "/console/", "/console/login", "/console/static/console.css", "/console/products/list"):
        for method in ("GET", "POST"):
            answer = web.client.request(method, path, follow_redirects=True)
            assert answer.status_code == 503
            assert "SESSION_SECRET" in answer.text
    for path in ("/oauth/zoho/start", "/oauth/zoho/callback?code=c&state=s"):
        answer = web.client.get(path)
        assert answer.status_code == 503
        assert "SESSION_SECRET" in answer.text
    assert web.is_alive()


def test_while_postgres_is_away_the_answer_is_503(serve: Serve, visit: Visit) -> None:
    away = serve(SESSION_SECRET=SESSION_SECRET, DATABASE_URL="postgresql://127.0.0.1:9/nowhere")
    stranger, guest = visit(away), visit(away)
    guest.cookies[COOKIE] = sign("a token")
    csrf = str(URLSafeSerializer(SESSION_SECRET, salt="starlette-admin-csrf").dumps("0" * 64))
    asked = [
        (stranger, "GET", "login", {}),
        (stranger, "POST", "login", {"username": "olga", "password": PASSWORD}),
        (guest, "GET", "", {}),
        (guest, "POST", "runs", {"kind": "full"}),
        (guest, "GET", "products/export.csv", {}),
        (guest, "GET", "login", {}),
    ]
    for browser in (stranger, guest):
        browser.cookies[CSRF_COOKIE] = csrf
    with ThreadPoolExecutor(len(asked)) as threads:
        answers = list(
            threads.map(
                lambda each: each[0].client.request(
                    each[1], f"/console/{each[2]}", data={CSRF_FIELD: csrf, **each[3]} if each[1] == "POST" else None
                ),
                asked,
            )
        )
    for answer in answers:
        assert answer.status_code == 503
        assert "Postgres does not answer" in answer.text
        assert answer.headers["retry-after"] == "5"
    assert away.client.get("/console/static/console.css").status_code == 200


def test_what_anybody_may_load_holds_nothing_of_the_mirror(console: Web) -> None:
    assert console.client.get("/console/static/console.css").status_code == 200
    for path in ("nothing", "", "../sessions.py", "..%2fsessions.py", "%2e%2e/%2e%2e/app.py", "....//app.py"):
        answer = console.client.get(f"/console/static/{path}")
        assert answer.status_code in (302, 404), path
        assert len(answer.content) < 50


def test_every_answer_forbids_to_frame_guess_and_keep_it(operator: Browser, console: Web) -> None:
    for answer in (operator.get(""), operator.get("nothing"), console.client.get("/console/"), operator.get("login")):
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "strict-transport-security" not in answer.headers, "this is plain HTTP"


def test_pages_run_no_scripts_but_their_own(operator: Browser, pool: Pool, rows: Rows) -> None:
    for path in furnish(pool, rows).values():
        answer = operator.get(path)
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        source, nonce = policy["script-src"].split()
        assert (source, policy["default-src"], policy["frame-ancestors"]) == ("'self'", "'none'", "'none'")
        scripts = re.findall(r"<script([^>]*)>", answer.text)
        foreign = [each for each in scripts if "src=" not in each and f'nonce="{nonce[7:-1]}"' not in each]
        assert foreign == []
        assert not re.search(r"<[^>]+\son(click|load|error|submit|change)=", answer.text), path
    assert operator.get("").headers["content-security-policy"] != operator.get("").headers["content-security-policy"]


def test_over_https_browsers_are_told_to_keep_to_it(serve: Serve) -> None:
    web = serve(SESSION_SECRET=SESSION_SECRET, TRUSTED_PROXIES="1")
    answer = web.client.get("/console/login", headers={"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"})
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_where_migrate_did_not_run_people_are_told_so(serve: Serve, visit: Visit, database_url: str) -> None:
    bare = serve(SESSION_SECRET=SESSION_SECRET, DATABASE_URL=database_url.rsplit("/", 1)[0] + "/postgres")
    guest = visit(bare)
    for path in ("", "login"):
        guest.cookies[COOKIE] = sign("a token")
        answer = guest.get(path)
        assert answer.status_code == 503
        assert "python -m processors migrate" in answer.text
    del guest.cookies[COOKIE]
    assert "python -m processors migrate" in guest.get("login").text
