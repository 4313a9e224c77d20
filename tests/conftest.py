"""Real servers for every test that wants them: one Postgres and one Redis for the whole run, emptied between tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import psycopg
import pytest
import structlog

from processors import logs
from processors.runtime.local import LocalPostgres, LocalRedis
from processors.store import database, schema
from processors.store.database import Connection, Pool

ENCRYPTION_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

# Most tests fill a few tables, and emptying an empty one costs as much.
_EMPTY_USED_TABLES = """
DO $$
DECLARE
    each text;
    is_used boolean;
    used text[] := '{}';
BEGIN
    FOR each IN SELECT quote_ident(tablename)
                  FROM pg_tables
                 WHERE schemaname = 'public' AND tablename NOT LIKE 'schema%' LOOP
        EXECUTE 'SELECT EXISTS (SELECT FROM ' || each || ')' INTO is_used;
        IF is_used THEN
            used := used || each;
        END IF;
    END LOOP;
    EXECUTE 'TRUNCATE ' || array_to_string(used, ', ') || ' CASCADE';
END $$
"""


# The files of a directory that takes long are begun first, so that no worker is left with one of them at the end.
_IN_THE_ORDER_OF = ("acceptance", "chaos", "runtime", "workflows", "receiver", "zoho", "messaging", "store")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        directory = item.path.parent.name
        return _IN_THE_ORDER_OF.index(directory) if directory in _IN_THE_ORDER_OF else len(_IN_THE_ORDER_OF)

    items.sort(key=turn)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Our lines go to where pytest catches them; what a test configures instead ends with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.NOISY}
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    with LocalPostgres(tmp_path_factory.mktemp("postgres")) as server:
        schema.migrate(server.create_database("mirror"))
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    with LocalRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def database_url(postgres: LocalPostgres) -> str:
    """A database with the schema and no rows."""
    url = postgres.url.rsplit("/", 1)[0] + "/mirror"
    with psycopg.connect(url, autocommit=True) as connection:
        # Ids go on counting: what a process of an earlier test still has to do must not meet this test's rows.
        connection.execute(_EMPTY_USED_TABLES)
        connection.execute("INSERT INTO api_gate DEFAULT VALUES")
        connection.execute("INSERT INTO zoho_connection DEFAULT VALUES")
        connection.execute("INSERT INTO retention DEFAULT VALUES")
    return url


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    with database.sync_pool(database_url, size=8, name="tests") as pool:
        yield pool


@pytest.fixture
def connection(pool: Pool) -> Iterator[Connection]:
    with pool.connection() as connection:
        yield connection
