"""The feed of changes, where transactions end in another order than they began."""

from __future__ import annotations

from datetime import timedelta

from processors.store import feed
from processors.store.database import Connection, Pool, only_row


def change(connection: Connection, item_id: str = "1", *, age: timedelta = timedelta()) -> int:
    row = only_row(
        connection.execute(
            """INSERT INTO product_changes (item_id, source, changes, changed_at)
               VALUES (%s, 'webhook', '{"price": ["1", "2"]}', now() - %s::interval) RETURNING id""",
            (item_id, age),
        )
    )
    return int(row["id"])


def ids_after(connection: Connection, after: int, *, most: int = 10) -> list[int]:
    return [each.id for each in feed.changes_after(connection, after, most=most)]


def test_changes_come_in_the_order_of_their_ids_and_from_where_one_was(connection: Connection) -> None:
    ids = [change(connection) for _ in range(5)]
    assert ids_after(connection, 0) == ids
    assert ids_after(connection, ids[1], most=2) == ids[2:4]
    assert ids_after(connection, ids[-1]) == []


def test_an_empty_history_has_nothing_to_tell(connection: Connection) -> None:
    assert ids_after(connection, 0) == []


def test_a_change_that_overtook_another_waits_for_it(pool: Pool, connection: Connection) -> None:
    begin = change(connection)
    with pool.connection() as slow, slow.transaction():
        slower = change(slow)
        faster = change(connection)
        assert ids_after(connection, begin) == []
    assert ids_after(connection, begin) == [slower, faster]


def test_a_change_is_told_although_others_are_being_written(pool: Pool, connection: Connection) -> None:
    begin, next_one = change(connection), change(connection)
    with pool.connection() as slow, slow.transaction():
        change(slow)
        assert ids_after(connection, begin) == [next_one]


def test_a_gap_that_nobody_can_fill_holds_nothing_back(pool: Pool, connection: Connection) -> None:
    begin = change(connection)
    with pool.connection() as failing, failing.transaction(force_rollback=True):
        change(failing)
    after_gap = change(connection)
    assert ids_after(connection, begin) == [after_gap]


def test_a_gap_is_not_waited_for_longer_than_a_transaction_can_take(pool: Pool, connection: Connection) -> None:
    begin = change(connection)
    with pool.connection() as failing, failing.transaction(force_rollback=True):
        change(failing)
    long_ago = change(connection, age=feed.LONGEST_TRANSACTION + timedelta(seconds=1))
    with pool.connection() as writing, writing.transaction():
        change(writing)
        assert ids_after(connection, begin) == [long_ago]
