"""Certificates: what the products were at one moment, whatever became of them since."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from processors import field_table
from processors.errors import RunRefused
from processors.store import certificates
from processors.store.certificates import Certificate, Recomputation
from processors.workflows import operations
from tests.workflows.scene import DEADLINE, ITEM, Scene, fields, run_together

OTHER = "4100000000000099999"
THIRD = "4100000000000077777"


def certified(scene: Scene) -> Certificate:
    with scene.pool.connection() as connection:
        return certificates.certify(connection)


def recomputed(scene: Scene, certificate: Certificate) -> Recomputation:
    with scene.pool.connection() as connection:
        return certificates.recompute(connection, certificate)


def holds(scene: Scene, certificate: Certificate) -> bool:
    again = recomputed(scene, certificate)
    return (again.items, again.hash) == (certificate.items, certificate.hash)


def hash_of(scene: Scene) -> str:
    return certified(scene).hash


def update(scene: Scene, second: int, item_id: str = ITEM, **changed: Any) -> None:
    (outcome,) = scene.outcomes([apply(scene, scene.changed(fields(second, item_id, **changed)))])
    assert outcome in ("created", "updated")


def apply(scene: Scene, event_id: int) -> int:
    scene.apply(event_id)
    return event_id


def delete(scene: Scene, item_id: str = ITEM) -> None:
    assert scene.outcomes([apply(scene, scene.deleted(item_id))]) == ["tombstoned"]


def restore(scene: Scene, second: int, item_id: str = ITEM, **changed: Any) -> None:
    """Let Zoho say that a tombstoned item is there."""
    scene.zoho.answers[item_id] = fields(second, item_id, **changed)
    event_id = scene.changed(fields(second, item_id, **changed))
    scene.settle_all()
    assert scene.outcomes([event_id]) == ["updated"]
    scene.live(item_id)


def insert(scene: Scene, item_id: str, **columns: Any) -> None:
    names = ", ".join(["zoho_item_id", *columns])
    places = ", ".join(f"%({name})s" for name in ["zoho_item_id", *columns])
    scene.execute(f"INSERT INTO products ({names}) VALUES ({places})", zoho_item_id=item_id, **columns)


# The number


def test_an_empty_catalogue_has_a_certificate(scene: Scene) -> None:
    certificate = certified(scene)
    assert (certificate.items, certificate.hash) == (0, "0" * 32)
    assert holds(scene, certificate)


def test_the_order_of_the_rows_does_not_matter(scene: Scene) -> None:
    rows = [(str(number), f"Product {number}") for number in range(50)]
    hashes = set()
    for order in (rows, rows[::-1], rows[25:] + rows[:25]):
        scene.execute("TRUNCATE products")
        for item_id, name in order:
            insert(scene, item_id, name=name)
        certificate = certified(scene)
        assert certificate.items == 50
        hashes.add(certificate.hash)
    assert len(hashes) == 1


def test_the_hash_is_the_sum_of_the_halves_of_the_content_digests(scene: Scene) -> None:
    for number in range(40):
        insert(scene, str(number), name=f"Product {number}")
    parts = ", ".join(f"digest_part({column})" for column in ("zoho_item_id", *field_table.COLUMNS))
    digests = [
        hashlib.sha256(row["written"].encode()).digest()
        for row in scene.execute(f"SELECT concat_ws(',', {parts}) AS written FROM products")
    ]
    high, low = (sum(int.from_bytes(each[at : at + 8]) for each in digests) % 2**64 for at in (0, 8))
    assert hash_of(scene) == f"{high:016x}{low:016x}"


OF_TYPE: dict[str, Any] = {"text": "Other", "numeric": Decimal("7.1"), "integer": 8, "boolean": False}
OTHERS = {column: OF_TYPE[source.sql] for column, source in field_table.BY_COLUMN.items()}


def test_whatever_changes_in_a_column_changes_it(scene: Scene) -> None:
    update(scene, 0)
    hashes = {"nothing": hash_of(scene)}
    for column, value in OTHERS.items():
        scene.execute(f"UPDATE products SET {column} = %(value)s, revision = revision + 1", value=value)
        hashes[column] = hash_of(scene)
    assert len(set(hashes.values())) == 1 + len(OTHERS)


def test_null_and_empty_text_and_another_column_are_told_apart(scene: Scene) -> None:
    columns = ("sku", "description", "category_id", "category_name", "brand", "unit")
    insert(scene, "1", name="Mug")
    hashes = {hash_of(scene)}
    for value in ("", "-", "1:a", "a"):
        for column in columns:
            scene.execute(f"UPDATE products SET {column} = %(value)s", value=value)
            hashes.add(hash_of(scene))
            scene.execute(f"UPDATE products SET {column} = NULL")
    assert len(hashes) == 1 + 4 * len(columns)


def test_what_wanders_from_one_column_or_row_to_another_changes_it(scene: Scene) -> None:
    insert(scene, "1", name="ab", sku="c", brand="x")
    insert(scene, "2", name="ab", sku="c", unit="y")
    hashes = {hash_of(scene)}
    for change in ("sku = 'bc', name = 'a'", "sku = NULL, name = 'abc'"):
        scene.execute(f"UPDATE products SET {change} WHERE zoho_item_id = '1'")
        hashes.add(hash_of(scene))
    scene.execute("UPDATE products SET name = 'ab', sku = 'c', brand = NULL, unit = 'y' WHERE zoho_item_id = '1'")
    scene.execute("UPDATE products SET unit = NULL, brand = 'x' WHERE zoho_item_id = '2'")
    hashes.add(hash_of(scene))
    assert len(hashes) == 4


@pytest.mark.parametrize(
    "change",
    [
        "price = 12.5000, stock_on_hand = 7",
        "zoho_last_modified_at = now(), created_at = now(), updated_at = now()",
        "raw = '{}', older_keys = '{\"name\": 1}'",
        "revision = 99, altered_at = now()",
    ],
)
def test_times_bodies_and_trailing_zeros_do_not_change_it(scene: Scene, change: str) -> None:
    update(scene, 0)
    before = hash_of(scene)
    scene.execute(f"UPDATE products SET {change}")
    assert hash_of(scene) == before


def test_tombstones_are_not_part_of_it(scene: Scene) -> None:
    update(scene, 0)
    alone = certified(scene)
    update(scene, 0, OTHER)
    assert certified(scene).items == 2
    delete(scene, OTHER)
    without = certified(scene)
    assert (without.items, without.hash) == (alone.items, alone.hash)


# What was changed since is undone


def updates(second: int, item_id: str = ITEM, **changed: Any) -> Callable[[Scene], None]:
    return lambda scene: update(scene, second, item_id, **changed)


def deletes(item_id: str = ITEM) -> Callable[[Scene], None]:
    return lambda scene: delete(scene, item_id)


def restores(item_id: str = ITEM, **changed: Any) -> Callable[[Scene], None]:
    return lambda scene: restore(scene, 5, item_id, **changed)


LATER: dict[str, list[Callable[[Scene], None]]] = {
    "nothing": [],
    "an update": [updates(1, rate=Decimal("13.00"))],
    "updates of one item": [
        updates(1, rate=Decimal("13.00")),
        updates(2, rate=Decimal("13.50"), name="Cup", stock_on_hand=Decimal("-2.5")),
        updates(3, rate="", sku="", status="inactive"),
    ],
    "there and back": [updates(1, rate=Decimal(99)), updates(2, rate=Decimal("12.500"))],
    "from nothing": [updates(1, description="Big", brand="Other", category_id="1")],
    "an untracked stock": [updates(1, stock_on_hand="", track_inventory=False)],
    "a creation": [updates(0, THIRD)],
    "a creation, updated": [updates(0, THIRD), updates(1, THIRD, name="")],
    "a creation, deleted and restored": [updates(0, THIRD), deletes(THIRD), restores(THIRD, name="Restored")],
    "a deletion": [deletes()],
    "an update, then a deletion": [updates(1, name="Cup"), deletes()],
    "a deletion, then a restoration": [deletes(), restores(name="Restored")],
    "a restoration of what was deleted before": [restores(OTHER)],
    "a restoration, then an update": [restores(OTHER, name="Restored"), updates(6, OTHER, rate=Decimal(1))],
}


@pytest.mark.parametrize("what", LATER)
def test_a_certificate_holds_whatever_the_mirror_does_later(scene: Scene, what: str) -> None:
    update(scene, 0)
    update(scene, 0, OTHER)
    delete(scene, OTHER)
    certificate = certified(scene)
    assert certificate.items == 1
    for do in LATER[what]:
        do(scene)
    again = recomputed(scene, certificate)
    assert (again.items, again.hash) == (certificate.items, certificate.hash)
    assert again.changed_since == (what != "nothing")
    assert (again.altered, again.altered_item_ids) == (0, [])


def test_a_certificate_does_not_hold_for_another_moment(scene: Scene) -> None:
    """Undoing is what makes it hold: without the history it does not."""
    update(scene, 0)
    certificate = certified(scene)
    update(scene, 1, name="Cup")
    assert holds(scene, certificate)
    scene.execute("DELETE FROM product_changes")
    assert not holds(scene, certificate)


def test_each_certificate_of_a_history_holds(scene: Scene) -> None:
    taken = [certified(scene)]
    for second in range(5):
        update(scene, second, str(1 + second % 2), name=f"Mug {second}")
        taken.append(certified(scene))
    delete(scene, "1")
    taken.append(certified(scene))
    assert [certificate.items for certificate in taken] == [0, 1, 2, 2, 2, 2, 1]
    assert all(holds(scene, certificate) for certificate in taken)
    assert len({certificate.hash for certificate in taken}) == len(taken)


# A change that is on its way while the certificate is taken


def in_the_middle(scene: Scene, work: Callable[[], object]) -> None:
    """Do `work` while a change of the item is written and not committed."""
    is_written, may_commit = threading.Event(), threading.Event()

    def change() -> None:
        with scene.pool.connection() as connection, connection.transaction():
            connection.execute(
                "UPDATE products SET name = 'Cup', revision = revision + 1 WHERE zoho_item_id = %s", [ITEM]
            )
            connection.execute(
                "INSERT INTO product_changes (item_id, source, changes) VALUES (%s, 'webhook', %s)",
                [ITEM, '{"name": ["Mug", "Cup"]}'],
            )
            is_written.set()
            assert may_commit.wait(DEADLINE)

    def certify() -> None:
        assert is_written.wait(DEADLINE)
        try:
            work()
        finally:
            may_commit.set()

    run_together([change, certify])


def test_a_change_that_began_before_and_is_committed_after_is_undone(scene: Scene) -> None:
    update(scene, 0)
    taken: list[Certificate] = []
    in_the_middle(scene, lambda: taken.append(certified(scene)))
    (row,) = scene.execute("SELECT name FROM products")
    assert row["name"] == "Cup"
    (change,) = scene.execute(
        "SELECT changed_at FROM product_changes WHERE source = 'webhook' ORDER BY id DESC LIMIT 1"
    )
    assert change["changed_at"] < taken[0].certified_at
    again = recomputed(scene, taken[0])
    assert (again.items, again.hash, again.changed_since) == (taken[0].items, taken[0].hash, 1)


def test_a_change_that_was_committed_before_is_not_undone(scene: Scene) -> None:
    update(scene, 0)
    in_the_middle(scene, lambda: None)
    certificate = certified(scene)
    again = recomputed(scene, certificate)
    assert (again.items, again.hash, again.changed_since) == (certificate.items, certificate.hash, 0)


def test_a_change_that_began_after_an_unfinished_one_and_was_committed_before_is_not_undone(scene: Scene) -> None:
    """Its number is above the oldest that was under way, and yet it is in the certificate."""
    update(scene, 0)
    update(scene, 0, OTHER)
    taken: list[Certificate] = []

    def work() -> None:
        update(scene, 1, OTHER, name="Pot")
        taken.append(certified(scene))
        update(scene, 2, OTHER, name="Pan")

    in_the_middle(scene, work)
    again = recomputed(scene, taken[0])
    assert (again.items, again.hash, again.changed_since) == (taken[0].items, taken[0].hash, 2)


def test_certificates_taken_while_changes_are_made_all_hold(scene: Scene) -> None:
    taken = [certified(scene)]
    item_ids = [str(number) for number in range(3)]
    done: list[str] = []

    def change(item_id: str) -> None:
        for second in range(12):
            scene.apply(scene.changed(fields(second, item_id, name=f"Mug {second}")))
        done.append(item_id)

    def certify() -> None:
        # However the threads take turns: to the last change, and once after it.
        while len(done) < len(item_ids) and len(taken) < 60:
            taken.append(certified(scene))
        taken.append(certified(scene))

    run_together([*(partial(change, item_id) for item_id in item_ids), certify])
    assert len({certificate.hash for certificate in taken}) > 1, "nothing happened between them"
    assert [certificate for certificate in taken if not holds(scene, certificate)] == []


# What others do


def test_an_alteration_by_others_breaks_it_and_is_named(scene: Scene) -> None:
    update(scene, 0)
    update(scene, 0, OTHER)
    certificate = certified(scene)
    scene.execute("UPDATE products SET price = 1 WHERE zoho_item_id = %(id)s", id=OTHER)
    again = recomputed(scene, certificate)
    assert again.hash != certificate.hash
    assert (again.altered, again.altered_item_ids) == (1, [OTHER])


def test_an_alteration_of_what_no_column_shows_is_named_though_it_breaks_nothing(scene: Scene) -> None:
    update(scene, 0)
    certificate = certified(scene)
    scene.execute("UPDATE products SET zoho_last_modified_at = now()")
    assert holds(scene, certificate)
    assert recomputed(scene, certificate).altered_item_ids == [ITEM]


@pytest.mark.parametrize(
    "done",
    [
        "DELETE FROM products WHERE zoho_item_id = '4100000000000099999'",
        "UPDATE products SET deleted_at = now() WHERE zoho_item_id = '4100000000000099999'",
        "UPDATE products SET zoho_item_id = '1' WHERE zoho_item_id = '4100000000000099999'",
        "INSERT INTO products (zoho_item_id, name) VALUES ('1', 'Smuggled')",
    ],
)
def test_a_row_that_others_remove_hide_or_add_breaks_it(scene: Scene, done: str) -> None:
    update(scene, 0)
    update(scene, 0, OTHER)
    certificate = certified(scene)
    scene.execute(done)
    assert not holds(scene, certificate)


def test_some_of_many_altered_rows_are_named_the_latest_first(scene: Scene) -> None:
    for number in range(12):
        insert(scene, str(number))
    certificate = certified(scene)
    for number in range(12):
        scene.execute("UPDATE products SET name = 'altered' WHERE zoho_item_id = %(id)s", id=str(number))
    again = recomputed(scene, certificate)
    assert again.altered == 12
    assert again.altered_item_ids == [str(number) for number in range(11, 1, -1)]


# Of a run


def test_a_run_is_verified_by_its_certificate(scene: Scene) -> None:
    update(scene, 0)
    certificate = certified(scene)
    scene.execute(
        """INSERT INTO reconciliation_runs (kind, state, finished_at, certified_at, certified_items, certified_hash,
                                            certified_snapshot, certified_fields)
           VALUES ('full', 'complete', now(), %(at)s, 1, %(hash)s, %(snapshot)s, %(version)s)""",
        at=certificate.certified_at,
        hash=certificate.hash,
        snapshot=certificate.snapshot,
        version=field_table.VERSION,
    )
    (row,) = scene.execute("SELECT id FROM reconciliation_runs")
    update(scene, 1, name="Cup")
    verified = operations.verify_run(scene.pool, row["id"])
    assert (verified.holds, verified.certificate) == (True, certificate)
    scene.execute("UPDATE products SET price = 1")
    assert not operations.verify_run(scene.pool, row["id"]).holds
    # Made by another release: nothing can be said of it.
    scene.execute("UPDATE reconciliation_runs SET certified_fields = NULL")
    with pytest.raises(RunRefused, match="not comparable"):
        operations.verify_run(scene.pool, row["id"])
    assert certificate.certified_at.utcoffset() == timedelta()
