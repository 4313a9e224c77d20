"""An operator's work in a browser, against the Procfile's own processes and a simulated Zoho."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

import simulator
from processors.runtime import procfile
from processors.runtime.local import LocalPostgres, LocalRedis
from simulator import Fault
from tests.acceptance.browser import CHROMIUM, Operator, chromium
from tests.acceptance.installation import Installation, wait_for

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; as root, `make browser` installs it")

NAME, PASSWORD = "olga", "correct horse battery"
ITEMS = 250
EMPTY = {
    # What the console is there to enter.
    "ZOHO_CLIENT_ID": "",
    "ZOHO_CLIENT_SECRET": "",
    "ZOHO_REFRESH_TOKEN": "",
    "ZOHO_ORGANIZATION_ID": "",
}


class Mirror(Installation):
    """An installation that nobody has connected yet, with one operator."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._env |= EMPTY

    def add_operator(self, name: str = NAME, role: str = "operator") -> None:
        subprocess.run(
            [sys.executable, "-m", "processors", "operator", "add", name, "--role", role],
            input=f"{PASSWORD}\n",
            text=True,
            env=self._env,
            cwd=procfile.ROOT,
            check=True,
            capture_output=True,
            timeout=60,
        )

    def deliver_thin(self, item_id: str) -> None:
        """A webhook whose body was cut down to the id: only Zoho can tell what is in the item."""
        body = json.dumps({"item": {"item_id": item_id}}).encode()
        headers = {simulator.SIGNATURE_HEADER: simulator.sign(simulator.WEBHOOK_SECRET, raw=body)}
        answer = httpx.post(f"{self.url}/webhooks/zoho/items", content=body, headers=headers)
        assert answer.status_code == httpx.codes.OK


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with ExitStack() as stack:
        postgres = stack.enter_context(LocalPostgres(tmp_path / "postgres"))
        redis = stack.enter_context(LocalRedis(tmp_path / "redis"))
        zoho = simulator.Zoho(simulator.Catalogue.generate(ITEMS), limits=simulator.Limits.none())
        zoho_url = stack.enter_context(simulator.serve(zoho))
        mirror = Mirror(postgres, redis, zoho, zoho_url, tmp_path)
        stack.callback(mirror.close)
        mirror.run_release()
        mirror.add_operator()
        for line in ("web", "worker", "clock"):
            mirror.start(line)
        mirror.wait_until_ready()
        zoho.deliveries.base_url = mirror.url
        yield mirror


@pytest.fixture
def operator(mirror: Mirror, browser: Browser) -> Iterator[Operator]:
    operator = Operator(browser, mirror.url)
    yield operator
    operator.close()
    assert operator.troubles == []


def connect(operator: Operator) -> None:
    page = operator.open("zoho")
    page.fill("#client_id", simulator.CLIENT_ID)
    page.fill("#client_secret", simulator.CLIENT_SECRET)
    operator.press("Keep the client")
    operator.reads("The client is kept")
    assert simulator.CLIENT_SECRET not in page.content()
    operator.press("Connect")
    page.click("button:has-text('Accept')")
    operator.reads("Zoho is connected")


def start_a_run(operator: Operator) -> None:
    operator.open("runs/list")
    operator.press("Reconcile now")
    operator.reads("is started")


def find_out_why_a_price_changed(mirror: Mirror, operator: Operator) -> None:
    item = next(item for item in mirror.zoho.catalogue.all() if item.sku)
    mirror.zoho.catalogue.edit(item.item_id, rate=Decimal("77.25"))
    price = f"SELECT price FROM products WHERE zoho_item_id = '{item.item_id}'"
    wait_for(lambda: mirror.one(price) == (Decimal("77.25"),), "the price")
    page = operator.open("products/list")
    page.fill("#filter-text", item.sku)
    operator.press("Find")
    page.click(f"a:has-text({item.name!r})")
    told = operator.reads("What happened to it")
    assert item.item_id in told
    assert "77.25" in told
    assert "Changed by a webhook" in told


def repair_what_zoho_refused(mirror: Mirror, operator: Operator) -> None:
    """Two events die; they are seen on the first page by their cause, looked at, and replayed, all that match."""
    refused = mirror.zoho.catalogue.all()[:2]
    paths = [*(f"/inventory/v1/items/{each.item_id}" for each in refused), "/inventory/v1/itemdetails"]
    faults = [Fault(path, status=400, code=2, message="Invalid value passed for item") for path in paths]
    for fault in faults:
        mirror.zoho.faults.add(fault)
    for each in refused:
        mirror.zoho.catalogue.edit(each.item_id, rate=Decimal("5.55"), webhook=False)
        mirror.deliver_thin(each.item_id)
    dead = "SELECT count(*) FROM events WHERE state = 'dead'"
    wait_for(lambda: mirror.one(dead) == (2,), "two dead events")
    page = operator.open()
    assert "2 dead events" in operator.reads("ZohoRefused")
    page.click("a:has-text('ZohoRefused')")
    assert "Invalid value passed for item" in operator.reads("Only those")
    for fault in faults:
        mirror.zoho.faults.remove(fault)
    operator.press("Replay all that match")
    operator.reads("2 would ask Zoho")
    page.fill("#reason", "Zoho takes it again")
    operator.press("Replay 2 events")
    page.wait_for_selector("h1 >> text=complete", timeout=30_000)
    assert "2 updated" in operator.reads("Zoho takes it again")
    assert mirror.one(dead) == (0,)
    assert mirror.mirrored() == mirror.in_zoho()


def confirm_a_mass_deletion(mirror: Mirror, operator: Operator) -> None:
    for each in mirror.zoho.catalogue.all()[:30]:
        mirror.zoho.catalogue.delete(each.item_id, webhook=False)
    start_a_run(operator)
    page = operator.page
    page.wait_for_selector("h1 >> text=held", timeout=30_000)
    assert "waits for your decision" in operator.reads("Confirm 30 deletions")
    assert len(mirror.mirrored()) == ITEMS
    operator.press("Confirm 30 deletions")
    page.wait_for_selector("h1 >> text=complete", timeout=60_000)
    assert mirror.mirrored() == mirror.in_zoho()


def sign_out(operator: Operator) -> None:
    page = operator.page
    page.click("[aria-label='Open user menu'] >> visible=true")
    page.click("button:has-text('Sign out') >> visible=true")
    page.wait_for_selector("#username")


def test_an_operator_connects_zoho_finds_out_why_a_price_changed_and_repairs_what_failed(
    mirror: Mirror, operator: Operator
) -> None:
    page = operator.sign_in(NAME, PASSWORD)
    assert "Zoho is not connected" in operator.reads("Overview")

    # The only organisation is picked by itself, and the first run starts by itself.
    connect(operator)
    told = operator.reads("The connection")
    for shown in (mirror.zoho.organization.name, simulator.ORGANIZATION_ID, simulator.USER_EMAIL):
        assert shown in told
    mirror.wait_until_complete()

    start_a_run(operator)
    page.wait_for_selector("h1 >> text=complete", timeout=30_000)
    assert "It had nothing to repair" in operator.reads("Drift: 0 changes")

    find_out_why_a_price_changed(mirror, operator)
    repair_what_zoho_refused(mirror, operator)
    confirm_a_mass_deletion(mirror, operator)

    operator.open("audit/list")
    told = operator.reads("sign_in.succeeded")
    for action in ("zoho.connected", "run.started", "replay.started", "run.deletes_confirmed"):
        assert action in told

    sign_out(operator)
    operator.open("products/list")
    page.wait_for_selector("#username")


def test_the_consoles_forms_work_without_javascript(mirror: Mirror, browser: Browser) -> None:
    operator = Operator(browser, mirror.url, javascript=False)
    operator.sign_in(NAME, PASSWORD)
    connect(operator)
    mirror.wait_until_complete()
    operator.open("runs/list")
    operator.press("Recent run")
    operator.reads("(recent) is started")
    operator.close()


def test_a_token_made_in_the_console_opens_the_api_until_it_is_revoked(mirror: Mirror, operator: Operator) -> None:
    page = operator.sign_in(NAME, PASSWORD)
    operator.open("access")
    page.fill("#token-name", "shop")
    operator.press("Make a token")
    headers = {"Authorization": f"Bearer {page.inner_text('#new-token').strip()}"}
    status = f"{mirror.url}/api/status"
    assert httpx.get(status, headers=headers).status_code == httpx.codes.OK
    assert "shop" in operator.open("access").inner_text("body")
    assert page.locator("#new-token").count() == 0
    page.on("dialog", lambda dialog: dialog.accept())
    operator.press("Revoke")
    operator.reads("opens nothing any more")
    assert httpx.get(status, headers=headers).status_code == httpx.codes.UNAUTHORIZED
