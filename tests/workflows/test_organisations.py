"""A delivery of another organisation changes nothing, and is kept with the reason."""

from __future__ import annotations

import pytest

from processors.store import zoho_connection
from processors.store.database import encode_json
from processors.store.event_filter import EventFilter
from processors.workflows import replaying
from tests.workflows.scene import ITEM, Scene, fields


def connect(scene: Scene, organization_id: str) -> None:
    with scene.pool.connection() as connection:
        zoho_connection.choose_organization(connection, organization_id, "Ours")


def deliver(scene: Scene, kind: str, organization_id: object, query: str = "") -> int:
    body = encode_json({"event_type": "x", "organization_id": organization_id, "item": fields()})
    event_id = scene.record(kind, ITEM, body)
    scene.execute("UPDATE events SET query_string = %(query)s WHERE id = %(id)s", query=query.encode(), id=event_id)
    return event_id


@pytest.mark.parametrize("kind", ["changed", "deleted"])
@pytest.mark.parametrize(
    ("named", "query"), [("20", ""), (20, ""), ("10", "organization_id=20"), ("", "organization_id=20")]
)
def test_a_delivery_that_names_another_organisation_is_dead_and_names_both(
    scene: Scene, kind: str, named: object, query: str
) -> None:
    connect(scene, "10")
    event_id = deliver(scene, kind, named, query)

    scene.apply(event_id)

    event = scene.event(event_id)
    assert (event["state"], event["error_class"]) == ("dead", "OtherOrganisation")
    assert "names organisation 20, but this mirror is of organisation 10;" in event["error"]
    assert (scene.product(), scene.zoho.calls) == (None, [])
    (rehearsal,) = replaying.rehearse(scene.pool, EventFilter(event_ids=(event_id,)))
    assert (rehearsal.effect, rehearsal.reason) == ("unreadable", event["error"])


@pytest.mark.parametrize("named", ["10", 10, "", "${ORGANIZATION_ID}", None])
def test_a_delivery_of_the_connected_organisation_or_of_none_is_applied(scene: Scene, named: object) -> None:
    connect(scene, "10")
    event_id = deliver(scene, "changed", named)

    scene.apply(event_id)

    assert scene.event(event_id)["outcome"] == "created"


def test_nothing_is_compared_while_no_organisation_is_known(scene: Scene) -> None:
    event_id = deliver(scene, "changed", "20", "organization_id=30")

    scene.apply(event_id)

    assert scene.event(event_id)["outcome"] == "created"


def test_of_a_forms_fields_only_the_item_is_taken_and_zoho_is_asked(scene: Scene) -> None:
    scene.zoho.answers[ITEM] = fields(rate=7)
    event_id = scene.record("changed", ITEM, f"item_id={ITEM}&name=Mug&rate=9&status=active".encode())
    form = "application/x-www-form-urlencoded"
    scene.execute("UPDATE events SET content_type = %(type)s WHERE id = %(id)s", type=form, id=event_id)

    scene.settle_all()

    assert (scene.live()["price"], scene.zoho.calls) == (7, [ITEM])


def test_the_organisation_of_the_rows_counts_whatever_is_set_now(scene: Scene) -> None:
    connect(scene, "20")
    scene.execute("UPDATE zoho_connection SET mirrored_organization_id = '10'")
    ours, other = deliver(scene, "changed", "10"), deliver(scene, "changed", "20")

    scene.apply(ours, other)

    assert (scene.event(ours)["outcome"], scene.event(other)["state"]) == ("created", "dead")
