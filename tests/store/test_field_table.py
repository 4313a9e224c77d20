"""The field table: what is derived from it agrees with it, and a new row of it is all that a new column needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from processors import field_table
from processors.runtime.local import LocalPostgres
from processors.store.database import Connection
from processors.workflows import browsing
from receiver.api import products
from receiver.console import products as console_products

ROOT = Path(__file__).parents[2]
ROW = '    brand: Annotated[str | None, From("brand", _text, "text")]\n'
SCRATCH = '    colour: Annotated[str | None, From("colour", _text, "text", is_expected=False)]\n'

# Run with a copy of the package whose field table has one row more.
PROOF = """
import sys
from datetime import timedelta
from dataclasses import asdict

import psycopg
from processors import field_table
from processors.store import database, runs, schema
from processors.workflows import browsing, operations
from tests.store.test_alterations import ListingZoho
from tests.workflows.scene import ITEM, Scene, fields

url = sys.argv[1]
schema.migrate(url)
with psycopg.connect(url, autocommit=True) as connection:
    connection.execute("ALTER TABLE products ADD COLUMN colour text")
with database.sync_pool(url, size=4, name="proof") as pool:
    scene = Scene(pool)
    # A webhook, and its history.
    scene.apply(scene.changed(fields(0, colour="red")))
    scene.apply(scene.changed(fields(1, colour="blue")))
    assert scene.live()["colour"] == "blue"
    assert scene.changes()[-1]["changes"] == {"colour": ["red", "blue"]}
    # Two colours of one second are a conflict that Zoho decides.
    event = scene.changed(fields(1, colour="green"))
    scene.apply(event)
    assert "colour differ within one second" in scene.event(event)["error"]
    scene.zoho.answers = {ITEM: fields(1, colour="green")}
    scene.fetch(event)
    assert scene.live()["colour"] == "green"

    def complete(**changed):
        scene.execute("UPDATE reconciliation_runs SET started_at = started_at - interval '1 second'")
        with pool.connection() as connection:
            run = runs.open_run(connection, "full", "cli")
        zoho = ListingZoho([fields(1, colour="green", **changed)])
        scene.reconciler(zoho).work(run.id)
        with pool.connection() as connection:
            run = runs.find(connection, run.id)
        assert run.state == "complete", run.error
        return run

    # A run finds that it agrees, and by its digest the next time; then a new colour, which the certificate covers.
    first = complete()
    assert first.updated == 0
    agreed = scene.execute("SELECT digest FROM listed_digests")
    again = complete(last_modified_time=fields(2)["last_modified_time"])
    assert scene.execute("SELECT digest FROM listed_digests") != agreed
    assert operations.verify_run(pool, again.id).holds
    scene.execute("UPDATE products SET colour = 'pink', revision = revision + 1, fields_revision = revision + 1")
    assert not operations.verify_run(pool, again.id).holds
    with pool.connection() as connection:
        (listed,) = browsing.find_products(connection, browsing.ProductQuery(), most=5)
    assert asdict(listed)["colour"] == "pink"
print("proved", field_table.VERSION)
"""


def test_a_row_more_in_the_table_is_all_that_a_column_needs(postgres: LocalPostgres, tmp_path: Path) -> None:
    copy = tmp_path / "processors"
    shutil.copytree(ROOT / "processors", copy, ignore=shutil.ignore_patterns("__pycache__"))
    table = copy / "field_table.py"
    text = table.read_text("utf-8")
    assert text.count(ROW) == 1
    table.write_text(text.replace(ROW, ROW + SCRATCH), "utf-8")
    url = postgres.create_database("scratch")
    done = subprocess.run(
        [sys.executable, "-c", PROOF, url],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    postgres.drop_database("scratch")
    assert done.returncode == 0, done.stderr
    proved, version = done.stdout.splitlines()[-1].split()
    assert proved == "proved"
    assert version != field_table.VERSION


def test_the_table_names_the_columns_and_types_of_products(connection: Connection) -> None:
    rows = connection.execute(
        """SELECT column_name, data_type FROM information_schema.columns
            WHERE table_schema = current_schema() AND table_name = 'products'"""
    )
    types = {row["column_name"]: row["data_type"] for row in rows}
    assert {column: source.sql for column, source in field_table.BY_COLUMN.items()}.items() <= types.items()


def test_programs_and_people_are_shown_every_column() -> None:
    columns = set(field_table.COLUMNS)
    assert columns <= products.Product.model_fields.keys()
    assert columns <= {*browsing.ProductRow.__dataclass_fields__}
    assert columns <= set(console_products._COLUMNS)
    (documented,) = re.findall(r"^\| `products` \| (.*) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert columns <= set(re.findall(r"`(\w+)`", documented))
