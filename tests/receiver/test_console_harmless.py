"""What the console shows of others' texts, takes from addresses and hands out: nothing of it does any harm."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import re
from html.parser import HTMLParser
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from processors.store.database import Pool
from processors.workflows import tokens
from tests.conftest import ENCRYPTION_KEY
from tests.receiver.conftest import Visit
from tests.receiver.programs import MUG, SHELL, fill
from tests.receiver.serving import OLDER_SECRET, SECRET, Rows
from tests.receiver.visitors import CSRF_FIELD, PASSWORD, SESSION_SECRET, Browser, furnish, person

# HTML


def evil(mark: str) -> str:
    """Return a text that would be elements and a script, if it were not escaped; `mark` says what it stood for."""
    return f"{mark}<img src=x onerror={mark}>'\"><script>{mark}</script></script>{{{{7*7}}}}-->"


class Elements(HTMLParser):
    """Collects what a browser would run or load because of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.injected: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if any(name.startswith("on") and value and value.startswith("evil") for name, value in attrs):
            self.injected.append(f"{tag} {attrs}")
        for name, value in attrs:
            if name in ("src", "srcset", "action", "data", "poster") or (name, tag) == ("href", "link"):
                self._load(value or "")
            if name in ("href", "src", "action", "formaction") and (value or "").strip().startswith("javascript:"):
                self.injected.append(f"{tag} {value}")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and re.match(r"\s*evil\w+\s*$", data):
            self.injected.append(f"script {data}")

    def _load(self, address: str) -> None:
        if address.startswith("//") or not address.startswith(("/", "?", "http://127.0.0.1:", "data:image/")):
            self.foreign.append(address)


def read(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def assert_escaped(page: str, *marks: str) -> None:
    for mark in marks:
        assert mark in page, mark
    assert read(page).injected == []
    assert "<img src=x" not in page
    assert not re.search(r"<script>evil", page)
    assert "49-->" not in page


def test_what_is_not_escaped_would_be_seen() -> None:
    assert len(read(f"<p>{evil('evilText')}</p>").injected) == 2
    assert len(read(f'<p title="{evil("evilTitle")}">').injected) == 1
    assert read('<script src="https://elsewhere.example/a.js"></script>').foreign == ["https://elsewhere.example/a.js"]


@pytest.fixture
def evil_pages(operator: Browser, pool: Pool, rows: Rows) -> dict[str, str]:
    """A mirror in which every text that others can write is evil."""
    pages = furnish(pool, rows)
    assert operator.get("").status_code == 200
    person(pool, "vera", "viewer")
    rows(
        "UPDATE products SET name = %s, sku = %s, category_name = %s, brand = %s, unit = %s, description = %s,"
        " category_id = %s, raw = jsonb_build_object('cf_note', %s::text)",
        *(evil(mark) for mark in ("evilName", "evilSku", "evilCategory", "evilBrand", "evilUnit", "evilText")),
        evil("evilCategoryId"),
        evil("evilRaw"),
    )
    rows(
        "UPDATE product_changes SET changes = jsonb_build_object('name', jsonb_build_array(%s::text, %s::text))",
        evil("evilOld"),
        evil("evilNew"),
    )
    rows("UPDATE events SET error = %s, error_class = %s, body = %s WHERE state = 'dead'", *(
        evil("evilError"), evil("evilClass"), evil("evilBody").encode()
    ))  # fmt: skip
    rows("UPDATE event_attempts SET error = %s, error_at = %s, worker = %s", *map(evil, ("evilTry", "evilAt", "evilW")))
    rows("UPDATE replays SET reason = %s, requested_by = %s", evil("evilReason"), evil("evilRequester"))
    rows("UPDATE replays SET filter = jsonb_build_object('error', %s::text)", evil("evilFilter"))
    rows("UPDATE reconciliation_runs SET error = %s WHERE state = 'held'", evil("evilRun"))
    rows("UPDATE operators SET name = %s WHERE name <> 'olga'", evil("evilOperator"))
    rows("UPDATE api_tokens SET name = %s, created_by = %s", evil("evilToken"), evil("evilMaker"))
    rows("UPDATE sessions SET address = %s", evil("evilAddress"))
    rows(
        "UPDATE zoho_connection SET refresh_token = 'x', client_id = %s, organization_id = %s, organization_name = %s,"
        " connected_as = %s, connected_by = %s, connected_at = now(), scopes = %s, last_error = %s, api_domain = %s",
        *(evil(f"evilZoho{number}") for number in range(8)),
    )
    rows(
        "INSERT INTO audit_log (channel, requester, address, action, targets, detail) VALUES"
        " ('api', %s, %s, %s, ARRAY[%s], jsonb_build_object(%s::text, %s::text)),"
        " ('api', 'x', NULL, 'item.fetched', ARRAY[%s], jsonb_build_object('error', %s::text))",
        *(evil(f"evilAudit{number}") for number in range(6)),
        MUG,
        evil("evilFetch"),
    )
    (run,) = rows("SELECT id FROM reconciliation_runs WHERE state = 'held'")
    rows("UPDATE product_changes SET source = 'full', run_id = %s, cause = 'no_delivery'", run["id"])
    pages["run"] = f"runs/detail?pk={run['id']}"
    rows(
        """INSERT INTO delivery_shapes (route, fingerprint, signature, secret, form, envelope, keys, missing, looked_at)
           VALUES ('changed', '', 'hex', 1, 'json', %s, '{}', ARRAY[%s], 1)""",
        evil("evilEnvelope"),
        evil("evilLack"),
    )
    rows(
        "INSERT INTO alerts (cause, what, what_to_do, page) VALUES ('x', %s, %s, '')",
        evil("evilAlert"),
        evil("evilAdvice"),
    )
    return pages


def test_html_in_others_texts_is_escaped_on_every_page(operator: Browser, evil_pages: dict[str, str]) -> None:
    marks = {
        "overview": ["evil"],
        "products": ["evilName", "evilSku", "evilCategory", "evilCategoryId"],
        "product": ["evilName", "evilSku", "evilCategory", "evilBrand", "evilUnit", "evilText", "evilOld", "evilNew"],
        "events": ["evilError"],
        "event": ["evilError", "evilBody", "evilTry"],
        "replays": ["evilFilter", "evilRequester"],
        "replay": ["evilReason", "evilRequester"],
        "runs": [],
        "run": ["evilRun", "evilOld", "evilNew"],
        "zoho": [f"evilZoho{number}" for number in (0, 1, 2, 3, 4, 5, 6)],
        "webhooks": ["evilEnvelope", "evilLack"],
        "alerts": ["evilAlert", "evilAdvice"],
        "access": ["evilOperator", "evilToken", "evilMaker"],
        "audit": [f"evilAudit{number}" for number in range(6)],
        "account": ["evilAddress"],
    }
    for name, path in evil_pages.items():
        if name != "export":
            assert_escaped(operator.shows(path), *marks[name])
    for path in ("events/replay?state=dead", "events/discard?state=dead", "events/replay?state=processed"):
        operator.shows(path)
        assert_escaped(operator.shows(path))


def test_html_in_what_was_looked_for_is_escaped(operator: Browser, evil_pages: dict[str, str]) -> None:
    assert evil_pages
    asked = {
        "products/list": ("text", "category"),
        "events/list": ("item", "error", "error_class", "cause"),
        "events/replay": ("item", "error", "cause"),
        "events/discard": ("item", "error", "cause"),
        "audit/list": ("requester", "action"),
    }
    for path, fields in asked.items():
        for field in fields:
            answer = operator.get(path, params={field: evil("evilAsked")})
            # A refusal is told on the next page.
            page = operator.told(answer) if answer.status_code == 303 else answer.text
            assert_escaped(page, *(["evilAsked"] if answer.status_code == 200 and path.endswith("/list") else []))
    for path, field in (("products/list", "state"), ("events/list", "since"), ("runs/list", "kind")):
        answer = operator.get(path, params={field: evil("evilWrong"), evil("evilField"): evil("evilWrong")})
        assert answer.status_code == 400
        assert field in answer.text
        assert_escaped(answer.text)
    for path in (f"products/detail?pk={evil('evilPk')}", evil("evilPath"), f"{evil('evilKey')}/list"):
        answer = operator.get(path)
        assert answer.status_code == 404
        assert_escaped(answer.text)


def test_html_in_names_at_the_sign_in_and_in_the_browsers_own_is_escaped(visit: Visit, pool: Pool) -> None:
    person(pool, "olga", "operator")
    browser = visit(agent=evil("evilBrowser"))
    assert_escaped(browser.sign_in(evil("evilname"), "a wrong password").text, "evilname")
    browser.sign_in("olga", path=f"login?next={evil('evilNext')}&{evil('evilOther')}=1")
    assert_escaped(browser.shows("account"), "evilBrowser")
    assert "evilname" not in browser.shows("audit/list"), "it may be a password"


def test_html_in_what_an_action_answers_is_escaped(operator: Browser) -> None:
    for path, fields in (
        ("access/tokens", {"name": evil("evilToken"), "scope": "read"}),
        ("zoho/client", {"data_center": evil("evilCenter"), "client_id": evil("evilId"), "client_secret": "s"}),
        ("zoho/client", {"data_center": "com", "client_id": evil("evilId"), "client_secret": evil("evilSecret")}),
        ("zoho/organisation", {"organization_id": evil("evilOrganisation")}),
        ("events/replay", {"state": "dead", "error": evil("evilError"), "total": evil("evilTotal")}),
    ):
        assert_escaped(operator.acts(path, fields))
    for path, fields in (("access/tokens", {"scope": evil("evilScope")}), ("runs", {"kind": evil("evilKind")})):
        answer = operator.post(path, fields)
        assert answer.status_code == 400
        assert_escaped(answer.text)


def test_pages_load_nothing_from_elsewhere(operator: Browser, pool: Pool, rows: Rows) -> None:
    for path in (*furnish(pool, rows).values(), "login", "nothing"):
        assert read(operator.get(path).text).foreign == []


# The table


def table(answer_text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer_text, newline="")))


def test_formulas_in_the_table_are_no_formulas(operator: Browser, rows: Rows) -> None:
    begin = ("=", "+", "-", "@", "\t", "\r", "\n", "=HYPERLINK(", "\t=", "\r\n=", "＝", "%")
    for number, (first, column) in enumerate(product(begin, ("name", "sku", "category_name", "unit"))):
        rows(
            f"INSERT INTO products (zoho_item_id, {column}, is_active) VALUES (%s, %s, true)",
            f"{number:03}",
            f"{first}1+1|cmd",
        )
    found = table(operator.shows("products/export.csv"))
    assert len(found) == len(begin) * 4
    for row, (first, column) in zip(found, product(begin, ("name", "sku", "category_name", "unit")), strict=True):
        sign = first.lstrip("\t\r\n")
        ends = first.removesuffix(sign)
        assert row[column] == ("'" if ends else "") + ends + ("'" if sign else "") + sign + "1+1|cmd"
    assert all(not cell.startswith(tuple("=+-@\t\r\n")) for row in found for cell in row.values())


def test_the_table_keeps_ids_numbers_and_texts_as_they_are(operator: Browser, rows: Rows) -> None:
    texts = ('a "quoted", name', "two\nlines", "semi;colon", "Ünïcödé 製品", "'", "", "a = b", "-7.5")
    for number, text in enumerate(texts):
        rows(
            "INSERT INTO products (zoho_item_id, name, price, stock_on_hand, stock_quantity, is_active)"
            " VALUES (%s, %s, 123456789012345678.90, -7.25, -8, true)",
            f"410000000000000000{number}",
            text,
        )
    answer = operator.get("products/export.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="products.csv"'
    found = table(answer.text)
    assert [row["name"] for row in found] == list(texts)
    assert [row["zoho_item_id"] for row in found] == [f"410000000000000000{number}" for number in range(len(texts))]
    assert {(row["price"], row["stock_on_hand"], row["stock_quantity"]) for row in found} == {
        ("123456789012345678.90", "-7.25", "-8")
    }
    assert answer.text.splitlines()[0].startswith("zoho_item_id,name,sku,description,price,stock_quantity")


def test_the_table_holds_all_that_the_filter_finds_and_nothing_else(operator: Browser, rows: Rows) -> None:
    rows(
        "INSERT INTO products (zoho_item_id, name, is_active) SELECT (4100000000000000000 + n)::text,"
        " CASE mod(n, 2) WHEN 0 THEN 'Mug ' ELSE 'Cup ' END || n, true FROM generate_series(1, 5000) AS n"
    )
    found = table(operator.shows("products/export.csv"))
    assert [row["zoho_item_id"] for row in found] == [str(4100000000000000000 + n) for n in range(1, 5001)]
    found = table(operator.shows("products/export.csv?text=mug"))
    assert len(found) == 2500
    assert all(row["name"].startswith("Mug ") for row in found)
    assert table(operator.shows("products/export.csv?state=deleted")) == []


# Secrets


def test_no_secret_is_on_a_page_in_a_log_or_on_record(
    visit: Visit, pool: Pool, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pages = furnish(pool, rows)
    rows("UPDATE zoho_connection SET organization_id = NULL")
    person(pool, "olga", "operator")
    operator = visit()
    operator.sign_in("olga", "the wrong pass phrase")
    operator.sign_in("olga")
    client_secret = "client-secret-of-zoho"
    kept = {"data_center": "com", "client_id": "1000.CLIENT", "client_secret": client_secret}
    shown = [operator.acts("zoho/client", kept)]
    operator.acts("zoho/client", {**kept, "client_secret": f"{client_secret} with spaces"})
    token = tokens.create(pool, "till", "write", SHELL).text
    operator.acts("account/password", {"password": PASSWORD, "new_password": "another good password"})
    shown += [operator.shows(path) for path in pages.values()]
    shown += [operator.get(path).text for path in ("nothing", "events/list?state=x", "events/replay?state=dead")]
    written = [str(row) for row in rows("SELECT audit_log::text AS row FROM audit_log")]
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert any("zoho.client_entered" in line for line in logged)
    assert any("zoho.client_entered" in line for line in written)
    session = operator.session
    secrets = [
        client_secret,
        token,
        SECRET,
        OLDER_SECRET,
        ENCRYPTION_KEY,
        SESSION_SECRET,
        PASSWORD,
        "another good password",
        "the wrong pass phrase",
        session,
        session.split(".")[0].strip('"'),
        *(row["password_hash"] for row in rows("SELECT password_hash FROM operators")),
        "$argon2",
        *(row["hex"] for row in rows("SELECT encode(client_secret, 'hex') AS hex FROM zoho_connection")),
    ]
    for secret in secrets:
        assert all(secret not in text for text in (*shown, *written, *logged)), secret


# Addresses and forms that nobody's browser would send

BEYOND = ("9223372036854775808", "99999999999999999999999", "-1", "1.0", "0x1", "1e3", "１", "%00", "1%00", "a", "")


def test_ids_that_are_none_are_answered_404(operator: Browser) -> None:
    for key, number in product(("events", "replays", "runs", "products"), (*BEYOND, "4100000000000012345")):
        assert operator.get(f"{key}/detail?pk={number}").status_code == 404, (key, number)


def test_actions_on_ids_that_are_none_change_nothing_and_say_so(operator: Browser) -> None:
    for number in ("9223372036854775808", "99999999999999999999999", "0"):
        for path in (f"runs/{number}/verify", f"runs/{number}/confirm-deletes", f"runs/{number}/discard-deletes"):
            assert operator.post(path).status_code == 303
            assert f"There is no run {number}" in operator.shows("runs/list")
        assert operator.post(f"replays/{number}/cancel").status_code == 303
        assert f"Replay {number} is not there" in operator.shows("replays/list")
        assert f"There is no token {number}" in operator.acts(f"access/tokens/{number}/revoke")
    for path in ("runs/a/verify", "runs/-1/verify", "runs/%00/verify", "replays/1.5/cancel"):
        assert operator.post(path).status_code in (400, 404), path


def test_pages_that_are_none_are_the_first_the_last_or_empty(operator: Browser, pool: Pool) -> None:
    fill(pool)
    pages = ("0", "-1", "99999999", "99999999999999999999", "abc", "1.5", "%00", "")
    for key, page in product(("products", "events", "replays", "runs", "audit"), pages):
        assert operator.get(f"{key}/list?page={page}").status_code in (200, 400), (key, page)
    for key, size in product(("products", "events", "audit"), ("0", "-1", "abc", "99999999999999999999", "%00", "50")):
        assert operator.get(f"{key}/list?page_size={size}").status_code in (200, 400), (key, size)


def test_a_filter_that_cannot_be_read_is_answered_400_with_its_field(operator: Browser) -> None:
    of_products = ("state", "out_of_stock", "changed_since")
    of_events = ("state", "outcome", "kind", "run", "since", "until")
    lists = {
        "products/list": of_products,
        "products/export.csv": of_products,
        "events/list": of_events,
        "events/replay": of_events,
        "events/discard": of_events,
        "runs/list": ("kind", "state"),
    }
    wrong = ("wrong", "99999999999999999999999", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00", "a\0b")
    for path, fields in lists.items():
        for field, value in product(fields, wrong):
            answer = operator.get(path, params={field: value})
            assert answer.status_code == 400, (path, field, value)
            assert field in answer.text


def test_a_nul_in_any_text_is_answered_400(operator: Browser) -> None:
    asked = {
        "products/list": ("text", "category"),
        "products/export.csv": ("text", "category"),
        "events/list": ("item", "error", "error_class", "cause"),
        "events/replay": ("item", "error", "error_class", "cause", "event"),
        "events/discard": ("item", "error", "error_class", "cause", "event"),
        "audit/list": ("requester", "action"),
    }
    for path, fields in asked.items():
        for field in fields:
            answer = operator.get(path, params={field: "a\0b"})
            assert answer.status_code == 400, (path, field)
            assert field in answer.text
    for path in ("%00", "products/%00/fetch", "products/list%00", "static/%00"):
        assert operator.get(path).status_code in (400, 404), path


FIELDS = (
    "text", "state", "out_of_stock", "changed_since", "category", "outcome", "kind", "item", "run", "error",
    "error_class", "cause", "since", "until", "requester", "action", "page", "page_size", "sort", "sort_by", "order",
    "order_by", "q", "filter", "pk", "event", "name", "_origin", "_list_query", "code", "accounts-server", "next",
)  # fmt: skip
ODD = (
    "1", "0", "-1", "dead", "processed", "live", "true", "name asc", "id__desc", "%", "_", "\\", "{}", "2026-10-05",
    "2026-10-05T16:02", "1e400", "NaN", "[]", '{"field":"name"}', "//evil.example", "'", '"', "&", "#", "9" * 30, "\0",
)  # fmt: skip
VALUES = st.one_of(st.text(st.characters(codec="utf-8"), max_size=12), st.sampled_from(ODD))
PATHS = (
    "", "products/list", "products/detail", "products/export.csv", "products", "events/list", "events/detail",
    "events/replay", "events/discard", "replays/list", "replays/detail", "runs/list", "runs/detail", "audit/list",
    "audit/detail", "zoho", "zoho/callback", "webhooks", "access", "account", "login",
)  # fmt: skip


@examples(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(PATHS), asked=st.lists(st.tuples(st.sampled_from(FIELDS), VALUES), max_size=5), data=st.data()
)
def test_no_address_is_answered_5xx(operator: Browser, path: str, asked: list[tuple[str, str]], data: Any) -> None:
    cookie = data.draw(st.sampled_from(["UTC", "Asia/Kolkata", "../../etc/passwd", "Not/AZone", "", "A" * 300]))
    operator.cookies["timezone"] = cookie
    answer = operator.get(path, params=asked)
    assert answer.status_code < 500, answer.text


URLENCODED = "application/x-www-form-urlencoded"
NO_FORMS = (
    (b"x", "multipart/form-data", 400),
    (b"x", "multipart/form-data; boundary=B", 400),
    (b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--", "multipart/form-data; boundary=B", 400),
    (b"--B\r\n" * 2_000, "multipart/form-data; boundary=B", 400),
    (b"&".join([b"a=1"] * 4_000), URLENCODED, 400),
    (b"name=a%00b", URLENCODED, 400),
    (b"na%00me=a", URLENCODED, 400),
    (b"a" * 300_000, URLENCODED, 413),
    (b"a" * 3_000_000, "text/plain", 413),
    (b"{}", "application/json", 403),
    (b"\xff\xfe", URLENCODED, 403),
    (b"", URLENCODED, 403),
)


def test_a_body_that_is_no_form_is_refused(operator: Browser, visit: Visit) -> None:
    stranger = visit()
    visits = ((stranger, "login"), (operator, "login"), (operator, "runs"), (operator, "access/tokens"))
    for (browser, path), (body, content_type, status) in product(visits, NO_FORMS):
        answer = browser.client.post(f"/console/{path}", content=body, headers={"Content-Type": content_type})
        assert answer.status_code == status, (path, content_type, body[:20])
    assert stranger.web.is_alive()


def test_a_stranger_sends_no_more_than_name_and_password_need(operator: Browser, visit: Visit) -> None:
    body, headers = b"username=" + b"a" * 20_000, {"Content-Type": URLENCODED}
    assert visit().client.post("/console/login", content=body, headers=headers).status_code == 413
    assert operator.client.post("/console/runs", content=body, headers=headers).status_code == 403


def test_a_form_that_holds_what_is_no_text_is_refused(operator: Browser) -> None:
    def part(name: str, value: str, more: str = "") -> bytes:
        return f'--B\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'.encode()

    token = part(CSRF_FIELD, operator.csrf)
    for more, charset in (
        (part("name", "\\ud800"), "; charset=unicode_escape"),
        (part("name", "a", '; filename="a.txt"'), ""),
    ):
        answer = operator.client.post(
            "/console/access/tokens",
            content=token + more + part("scope", "read") + b"--B--\r\n",
            headers={"Content-Type": f"multipart/form-data; boundary=B{charset}"},
        )
        assert answer.status_code in (400, 403)


def test_a_form_that_comes_in_pieces_and_ends_early_is_nobodys_trouble(operator: Browser) -> None:
    with operator.web.connect() as connection:
        connection.sendall(
            b"POST /console/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\nusername=o"
        )
    assert operator.shows("")
    assert operator.web.is_alive()


def test_forms_that_never_arrive_keep_nobody_out(operator: Browser, visit: Visit) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in operator.cookies.items())
    with contextlib.ExitStack() as stack:
        for head in ("", f"Cookie: {cookie}\r\n"):
            for _ in range(30):
                stack.enter_context(operator.web.connect()).sendall(
                    f"POST /console/login HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: 1000\r\n"
                    f"Content-Type: {URLENCODED}\r\n\r\nusername=o".encode()
                )
        assert operator.shows("products/list")
        assert visit().shows("login")
