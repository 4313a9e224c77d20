"""What the list says of items, compared with their rows: every difference is found, and what agrees is known again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors import field_table
from processors.field_table import Content
from processors.store import comparison, settlement
from processors.store.comparison import Agreement, Found
from processors.store.database import Connection, Pool
from processors.store.products import Current, Product
from processors.store.settlement import ItemDecision
from processors.workflows import listed_pages
from processors.zoho.items import Body
from tests.workflows.scene import Scene, fields

HOUR = timedelta(hours=1)
MOMENT = datetime(2026, 10, 5, 12, tzinfo=UTC)
DIGEST, OTHER = b"d" * 16, b"o" * 16
OF_EACH_TYPE: dict[str, Any] = {"text": "Mug", "numeric": Decimal("7.25"), "integer": 7, "boolean": True}
CONTENT = Content(**{column: OF_EACH_TYPE[source.sql] for column, source in field_table.BY_COLUMN.items()})


def product(connection: Connection, item_id: str, content: Content, **columns: Any) -> None:
    values = {"zoho_item_id": item_id, "zoho_last_modified_at": MOMENT}
    values |= {"fields_version": field_table.VERSION, "fields_revision": columns.get("revision", 1), **columns}
    values |= {column: getattr(content, column) for column in field_table.COLUMNS}
    names = ", ".join(values)
    places = ", ".join(f"%({name})s" for name in values)
    connection.execute(f"INSERT INTO products ({names}) VALUES ({places})", values)


@dataclass(frozen=True)
class Listed:
    item_id: str
    content: Content
    modified_at: datetime | None

    @property
    def body(self) -> Body:
        return Body({}, self.content, self.modified_at, is_day_only=False, missing=(), notes=())


def find(connection: Connection, *listed: Listed) -> dict[str, Found]:
    """Read what is known of these, whatever the digests say."""
    return comparison.find_unknown(connection, dict.fromkeys((each.item_id for each in listed), None))


def differing(connection: Connection, *listed: Listed) -> set[str]:
    rows = {item_id: found.current.product for item_id, found in find(connection, *listed).items()}
    return {
        each.item_id for each in listed if not (row := rows[each.item_id]) or not listed_pages._says(row, each.body)
    }


def test_what_is_as_its_row_says_does_not_differ(connection: Connection) -> None:
    product(connection, "1", CONTENT)
    assert differing(connection, Listed("1", CONTENT, MOMENT)) == set()
    assert differing(connection) == set()


def test_a_row_that_differs_comes_with_what_is_known_of_it(scene: Scene, connection: Connection) -> None:
    scene.apply(scene.changed(fields()))
    (found,) = find(connection, Listed(fields()["item_id"], CONTENT, MOMENT)).values()
    current = found.current
    assert current.product is not None
    assert (current.product.raw, current.product.content.price, current.revision) == (fields(), Decimal("12.50"), 1)
    assert current.written_at is not None


def test_an_item_without_a_row_comes_with_its_absences(scene: Scene, connection: Connection) -> None:
    scene.apply(scene.deleted("1"), scene.deleted("1"))
    known = {
        item_id: found.current
        for item_id, found in comparison.find_unknown(connection, {"1": DIGEST, "2": DIGEST}).items()
    }
    assert {item_id: (current.product, current.revision, current.absences) for item_id, current in known.items()} == {
        "1": (None, 0, 2),
        "2": (None, 0, 0),
    }


def test_a_row_that_is_tombstoned_or_was_altered_differs_whatever_it_says(connection: Connection) -> None:
    product(connection, "tombstoned", CONTENT, deleted_at=MOMENT)
    product(connection, "altered", CONTENT, altered_at=MOMENT)
    product(connection, "neither", CONTENT)
    listed = [Listed(item_id, CONTENT, MOMENT) for item_id in ("tombstoned", "altered", "neither")]
    assert differing(connection, *listed) == {"tombstoned", "altered"}


def test_a_row_of_another_time_differs(connection: Connection) -> None:
    times = (MOMENT, MOMENT + timedelta(seconds=1), MOMENT - HOUR, None)
    for number, modified_at in enumerate(times):
        product(connection, str(number), CONTENT, zoho_last_modified_at=modified_at)
    for modified_at in times:
        listed = [Listed(str(number), CONTENT, modified_at) for number in range(len(times))]
        assert differing(connection, *listed) == {str(n) for n, time in enumerate(times) if time != modified_at}


def test_numbers_of_the_same_value_do_not_differ(connection: Connection) -> None:
    row = replace(CONTENT, price=Decimal("12.50"))
    product(connection, "1", row)
    for written in ("12.5", "12.500", "012.50", "1.250E+1"):
        same = replace(row, price=Decimal(written), stock_on_hand=Decimal("7.250000"))
        assert differing(connection, Listed("1", same, MOMENT)) == set(), written


TEXTS = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
NUMBERS = st.none() | st.decimals(-(10**9), 10**9, places=3)
OF_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "numeric": NUMBERS,
    "integer": st.none() | st.integers(-(2**31), 2**31 - 1),
    "boolean": st.booleans(),
}
COLUMNS = {column: OF_TYPE[source.sql] for column, source in field_table.BY_COLUMN.items()}
COLUMNS["name"] = TEXTS.filter(lambda text: text is not None)
CONTENTS = st.builds(Content, **COLUMNS)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Content, Content]:
    """A row, and what is listed of it: the same, or with one column drawn anew."""
    row = draw(CONTENTS)
    column = draw(st.none() | st.sampled_from(field_table.COLUMNS))
    return row, replace(row, **{column: draw(COLUMNS[column])}) if column else row


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pairs(), min_size=1, max_size=8))
def test_exactly_what_differs_in_a_column_is_returned(
    connection: Connection, rows_and_listed: list[tuple[Content, Content]]
) -> None:
    connection.execute("DELETE FROM products")
    for number, (row, _) in enumerate(rows_and_listed):
        product(connection, str(number), row)
    listed = [Listed(str(number), content, MOMENT) for number, (_, content) in enumerate(rows_and_listed)]
    assert differing(connection, *listed) == {
        str(number) for number, (row, said) in enumerate(rows_and_listed) if row != said
    }
    for item_id, found in find(connection, *listed).items():
        assert found.current.product is not None
        assert found.current.product.content == rows_and_listed[int(item_id)][0]


def test_a_column_that_is_null_differs_from_one_that_is_not(connection: Connection) -> None:
    empty: dict[str, Any] = {**dict.fromkeys(field_table.COLUMNS), "name": "", "is_active": False}
    emptied = {column: replace(CONTENT, **{column: empty[column]}) for column in field_table.COLUMNS}
    for column, content in emptied.items():
        product(connection, f"full {column}", CONTENT)
        product(connection, f"empty {column}", content)
    swapped = [Listed(f"full {column}", content, MOMENT) for column, content in emptied.items()]
    swapped += [Listed(f"empty {column}", CONTENT, MOMENT) for column in emptied]
    assert differing(connection, *swapped) == {listed.item_id for listed in swapped}
    as_they_are = [Listed(f"empty {column}", content, MOMENT) for column, content in emptied.items()]
    assert differing(connection, *as_they_are) == set()


# Digests


def agree(connection: Connection, *item_ids: str, digest: bytes = DIGEST) -> None:
    """Find that the rows of these items agree, and keep it."""
    found = comparison.find_unknown(connection, dict.fromkeys(item_ids, None))
    keep(connection, digest, **found)


def keep(connection: Connection, digest: bytes, **found: Found) -> None:
    agreements = [
        Agreement(item_id, digest, each.current.revision, each.row_version)
        for item_id, each in found.items()
        if each.row_version is not None
    ]
    assert len(agreements) == len(found), "each has a row"
    comparison.keep(connection, agreements)


def is_known(connection: Connection, item_id: str = "1", digest: bytes | None = DIGEST) -> bool:
    """Tell whether an item is known to agree without a look at its row."""
    return not comparison.find_unknown(connection, {item_id: digest})


def test_what_was_found_to_agree_is_known_by_its_digest(connection: Connection) -> None:
    for item_id in ("1", "2", "3"):
        product(connection, item_id, CONTENT)
    agree(connection, "1", "2")
    assert comparison.find_unknown(connection, {"1": DIGEST, "2": OTHER, "3": DIGEST, "4": DIGEST}).keys() == {
        "2",
        "3",
        "4",
    }
    assert not is_known(connection, "1", None)
    agree(connection, "2", digest=OTHER)
    assert is_known(connection, "2", OTHER)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param("UPDATE products SET price = 1, revision = revision + 1", id="the mirror"),
        pytest.param("UPDATE products SET price = 1", id="somebody else"),
        pytest.param(
            "SET LOCAL session_replication_role = replica; UPDATE products SET price = 1", id="past the trigger"
        ),
        pytest.param(
            "CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM products; DELETE FROM products;"
            "UPDATE kept SET price = 1; INSERT INTO products SELECT * FROM kept",
            id="a copy with the same revision",
        ),
        pytest.param("UPDATE products SET revision = revision", id="nothing"),
    ],
)
def test_a_row_that_was_written_by_whomever_is_looked_at_again(connection: Connection, write: str) -> None:
    product(connection, "1", CONTENT)
    agree(connection, "1")
    with connection.transaction():
        connection.execute(write)
    assert not is_known(connection)


def test_a_row_that_is_written_between_comparison_and_note_is_looked_at_again(
    pool: Pool, connection: Connection
) -> None:
    product(connection, "1", CONTENT)
    found = find(connection, Listed("1", CONTENT, MOMENT))
    with pool.connection() as another, another.transaction():
        another.execute("SET LOCAL session_replication_role = replica")
        another.execute("UPDATE products SET price = 1")
    keep(connection, DIGEST, **found)
    assert not is_known(connection)


def test_a_row_that_is_written_as_the_list_says_is_known_by_the_version_that_was_made(connection: Connection) -> None:
    created = Product("1", CONTENT, MOMENT, None, {}, {})
    updated = replace(created, content=replace(CONTENT, name="Cup"))
    missing = Current(None, revision=0, absences=0)
    assert settlement.settle(connection, [ItemDecision("1", missing, created, digest=DIGEST)]) == {"1"}
    assert is_known(connection)
    known = settlement.read_current(connection, ["1"])["1"]
    assert settlement.settle(connection, [ItemDecision("1", missing, updated, digest=OTHER)]) == set()
    assert is_known(connection)
    assert settlement.settle(connection, [ItemDecision("1", known, updated, digest=OTHER)]) == {"1"}
    assert (is_known(connection), is_known(connection, digest=OTHER)) == (False, True)
    known = settlement.read_current(connection, ["1"])["1"]
    assert settlement.settle(connection, [ItemDecision("1", known, created)]) == {"1"}
    assert (is_known(connection), is_known(connection, digest=OTHER)) == (False, False)


OTHERWISE = {"text": "'x'", "numeric": "1", "integer": "NULL", "boolean": "false"}
WRITTEN_OTHERWISE = {
    **{column: OTHERWISE[source.sql] for column, source in field_table.BY_COLUMN.items()},
    **dict.fromkeys(("zoho_last_modified_at", "deleted_at", "altered_at"), "now()"),
}


@pytest.mark.parametrize("column", WRITTEN_OTHERWISE)
def test_what_a_trigger_of_somebody_elses_makes_of_a_row_is_looked_at(connection: Connection, column: str) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute(
            f"""CREATE FUNCTION pg_temp.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN NEW.{column} := {WRITTEN_OTHERWISE[column]}; RETURN NEW; END $$;
                CREATE TRIGGER meddling BEFORE INSERT OR UPDATE ON products
                    FOR EACH ROW EXECUTE FUNCTION pg_temp.meddle()"""
        )
        decision = ItemDecision("1", Current(None, 0, 0), Product("1", CONTENT, MOMENT, None, {}, {}), digest=DIGEST)
        assert settlement.settle(connection, [decision]) == {"1"}
        assert not is_known(connection)


@pytest.mark.parametrize(
    "then",
    ["UPDATE listed_digests SET revision = revision + 1", "UPDATE products SET altered_at = now()"],
)
def test_in_a_restored_database_a_version_is_not_enough(connection: Connection, then: str) -> None:
    """A dump writes all rows with one number, which may be one that was kept for a former version of a row."""
    product(connection, "1", CONTENT)
    agree(connection, "1")
    connection.execute(then)
    connection.execute("UPDATE listed_digests SET row_version = (SELECT xmin FROM products)")
    assert not is_known(connection)


def test_digests_are_not_logged_since_all_of_them_can_be_found_again(connection: Connection) -> None:
    (row,) = connection.execute("SELECT relpersistence FROM pg_class WHERE relname = 'listed_digests'").fetchall()
    assert row["relpersistence"] == "u"
    product(connection, "1", CONTENT)
    agree(connection, "1")
    connection.execute("TRUNCATE listed_digests")
    assert not is_known(connection)
    agree(connection, "1")
    assert is_known(connection)
