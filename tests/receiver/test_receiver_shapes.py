"""The shape watch: a sample of what is delivered, and what it says when a template changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors import field_table
from processors.store import shapes
from processors.store.database import Connection
from processors.store.shapes import SeenShape
from processors.workflows import insights
from receiver.shapes import Sample, shape_of
from tests.receiver.conftest import Serve
from tests.receiver.serving import DELETED, FORM, JSON, OLDER_SECRET, eventually, item, signed

FULL = dict.fromkeys(field_table.EXPECTED, "x") | {"last_modified_time": "2026-10-05T21:32:21+0530"}


def sample(body: bytes, content_type: str = JSON, **given: object) -> Sample:
    return Sample(**{  # type: ignore[arg-type]  # a test's shorthand
        "route": "changed", "signature": "hex", "secret": 1, "body": body, "content_type": content_type,
        "query_string": b"", **given,
    })  # fmt: skip


# A shape


def test_the_envelope_is_named() -> None:
    bare = item()[len(b'{"item": ') : -1]
    assert shape_of(sample(item())).envelope == "item"
    assert shape_of(sample(bare)).envelope == ""
    assert shape_of(sample(b'{"event_type": "x", "data": %s}' % item())).envelope == "event_type"
    text = item().replace(b'"', b'\\"')
    assert shape_of(sample(b'{"JSONString": "%s"}' % text)).envelope == "JSONString"


def test_custom_fields_and_display_twins_make_no_other_shape() -> None:
    plain = shape_of(sample(item(rate=1)))
    assert shape_of(sample(item(rate=1, cf_colour="Red", cf_colour_unformatted="Red", rate_formatted="1"))) == plain
    assert shape_of(sample(item(rate=1, brand=""))) != plain


def test_what_is_mapped_and_missing_is_told_of_changes_only() -> None:
    assert shape_of(sample(item(**FULL))).missing == ()
    assert "rate" in shape_of(sample(item())).missing
    assert shape_of(sample(item(), route="deleted")).missing == ()


@given(st.permutations(sorted(FULL)))
def test_the_order_of_keys_does_not_matter(order: list[str]) -> None:
    known = shape_of(sample(item(**FULL)))
    assert shape_of(sample(item(**{key: FULL[key] for key in order}))).fingerprint == known.fingerprint


# The sample


@pytest.fixture
def seen(connection: Connection) -> Callable[[], list[SeenShape]]:
    return lambda: shapes.listed(connection)


def test_a_delivery_is_sampled_with_its_encoding_and_the_secret_that_fits(
    serve: Serve, seen: Callable[[], list[SeenShape]]
) -> None:
    web, body = serve(), item(**FULL)
    for _ in range(5):
        # All but the first come within a second of it.
        assert web.deliver(body).status_code == 200
    headers = signed(item("7"), secret=OLDER_SECRET)
    assert web.client.post(DELETED, content=item("7"), headers=headers).status_code == 200
    found = eventually(lambda: len(seen()) == 2 and seen())
    told = {each.shape.route: each for each in found or []}
    changed, deleted = told["changed"].shape, told["deleted"].shape
    assert (changed.signature, changed.secret, changed.form, changed.envelope) == ("hex", 1, "json", "item")
    assert (deleted.secret, told["changed"].looked_at) == (2, 1)


def test_a_refused_or_unreadable_delivery_is_not_sampled(serve: Serve, seen: Callable[[], list[SeenShape]]) -> None:
    web = serve()
    web.client.post("/webhooks/zoho/items", content=item(), headers={"Content-Type": JSON})
    web.deliver(b"{}")
    web.deliver_form([("item_id", "7"), ("name", "Widget")])
    (found,) = eventually(seen)
    assert (found.shape.form, found.shape.envelope) == ("form", "")
    assert FORM not in found.shape.keys


# What it finds


def see(
    connection: Connection, *keys: str, ago: timedelta, until: timedelta = timedelta(), looked_at: int = 10
) -> None:
    """Let deliveries with these keys have come from then until then."""
    missing = [key for key in field_table.EXPECTED if key not in keys]
    connection.execute(
        """INSERT INTO delivery_shapes (route, fingerprint, signature, secret, form, envelope, keys, missing, looked_at,
                                        first_seen_at, last_seen_at)
           VALUES ('changed', sha256(%(keys)s::text[]::text::bytea), 'hex', 1, 'json', 'item', %(keys)s::text[],
                   %(missing)s::text[], %(looked_at)s, now() - %(ago)s::interval, now() - %(until)s::interval)""",
        {"keys": list(keys), "missing": missing, "ago": ago, "until": until, "looked_at": looked_at},
    )


HOUR = timedelta(hours=1)
WITHOUT_RATE = tuple(key for key in field_table.EXPECTED if key != "rate")


def problems(connection: Connection) -> list[str]:
    found = insights.problems(insights.overview(connection))
    return [problem.what for problem in found if problem.cause == "webhooks.shape_changed"]


def test_a_mapped_key_that_no_delivery_has_any_more_is_a_problem(connection: Connection) -> None:
    see(connection, *field_table.EXPECTED, ago=48 * HOUR, until=2 * HOUR)
    assert problems(connection) == []
    see(connection, *WITHOUT_RATE, ago=HOUR)
    (what,) = problems(connection)
    assert what.startswith("deliveries carry rate no more, since ")


def test_it_is_none_once_a_delivery_has_the_key_again(connection: Connection) -> None:
    see(connection, *field_table.EXPECTED, ago=48 * HOUR)
    see(connection, *WITHOUT_RATE, ago=HOUR)
    assert problems(connection) == []


def test_items_of_a_kind_that_always_lacked_it_are_none(connection: Connection) -> None:
    see(connection, *field_table.EXPECTED, ago=48 * HOUR, until=2 * HOUR)
    see(connection, *WITHOUT_RATE, ago=40 * HOUR)
    assert problems(connection) == []


def test_a_few_deliveries_are_no_evidence(connection: Connection) -> None:
    see(connection, *field_table.EXPECTED, ago=48 * HOUR, until=2 * HOUR)
    see(connection, *WITHOUT_RATE, ago=HOUR, looked_at=4)
    assert problems(connection) == []


def test_a_key_that_never_came_is_none(connection: Connection) -> None:
    see(connection, *WITHOUT_RATE, ago=48 * HOUR)
    see(connection, "name", "rate", ago=HOUR)
    assert not any("rate" in what for what in problems(connection))


def test_what_is_accepted_is_no_problem_any_more(connection: Connection) -> None:
    see(connection, *field_table.EXPECTED, ago=48 * HOUR, until=2 * HOUR)
    see(connection, *WITHOUT_RATE, ago=HOUR)
    assert shapes.accept(connection) == 1
    assert problems(connection) == []


def test_what_was_not_seen_for_long_is_forgotten_and_no_route_has_more_than_so_many(connection: Connection) -> None:
    see(connection, "name", ago=200 * 24 * HOUR, until=100 * 24 * HOUR)
    for number in range(shapes.MOST_OF_A_ROUTE + 20):
        see(connection, "name", f"key_{number}", ago=HOUR)
    shapes.trim(connection)
    found = shapes.listed(connection)
    assert len(found) == shapes.MOST_OF_A_ROUTE
    assert not any(each.shape.keys == ("name",) for each in found)


# What is refused


def refuse(connection: Connection, reason: str, count: int, *, hours_ago: int = 0, route: str = "changed") -> None:
    connection.execute(
        """INSERT INTO rejections (hour, route, reason, count)
           VALUES (date_trunc('hour', now()) - make_interval(hours => %s), %s, %s, %s)""",
        (hours_ago, route, reason, count),
    )


def let_in(connection: Connection, count: int) -> None:
    connection.execute(
        """INSERT INTO events (kind, item_id, state, outcome, processed_at, body, content_type, query_string)
           SELECT 'changed', '1', 'processed', 'unchanged', now(), '', '', '' FROM generate_series(1, %s)""",
        (count,),
    )


def refusals(connection: Connection) -> list[tuple[str, str]]:
    found = insights.problems(insights.overview(connection))
    return [(each.cause, each.what) for each in found if each.cause.startswith("webhooks.signature")]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("signature_absent", "carry no signature"),
        ("signature_malformed", "carry a signature of another kind"),
        ("signature_mismatch", "carry a signature that fits no secret of ZOHO_WEBHOOK_SECRETS"),
    ],
)
def test_most_deliveries_being_refused_is_a_finding_with_its_cause(
    connection: Connection, reason: str, words: str
) -> None:
    refuse(connection, reason, 60)
    refuse(connection, reason, 18, hours_ago=20)
    let_in(connection, 2)
    assert refusals(connection) == [(f"webhooks.{reason}", f"78 of the last 80 deliveries of changed items {words}")]


def test_deliveries_refused_for_several_reasons_are_refused_all_the_same(connection: Connection) -> None:
    for reason in ("signature_absent", "signature_malformed", "signature_mismatch"):
        refuse(connection, reason, 10)
    let_in(connection, 6)
    assert [what.split(" deliveries")[0] for _, what in refusals(connection)] == ["10 of the last 36"] * 3


def test_the_noise_of_strangers_is_none(connection: Connection) -> None:
    refuse(connection, "signature_absent", 20)
    refuse(connection, "size", 200)
    let_in(connection, 30)
    assert refusals(connection) == []


def test_a_handful_is_none(connection: Connection) -> None:
    refuse(connection, "signature_absent", 4)
    assert refusals(connection) == []


def test_what_was_refused_the_day_before_yesterday_is_none(connection: Connection) -> None:
    refuse(connection, "signature_absent", 80, hours_ago=30)
    assert refusals(connection) == []
