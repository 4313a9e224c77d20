"""Operators, their passwords and sessions, against the database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import argon2
import pytest

from processors.errors import AccessRefused, SignInFailed, SignInThrottled
from processors.store import audit, operators
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import access, retention

SHELL = Requester("cli", "root")
PASSWORD = "correct horse battery"
KEY = "a key of this installation"
ADDRESS = "192.0.2.7"


@pytest.fixture
def olga(pool: Pool) -> str:
    return access.add_operator(pool, "Olga", PASSWORD, "operator", SHELL).name


def sign_in(pool: Pool, name: str = "olga", password: str = PASSWORD, address: str | None = ADDRESS) -> str:
    return access.sign_in(pool, name, password, address=address, browser="a browser", key=KEY)


def whose(pool: Pool, token: str) -> operators.SignedIn | None:
    return access.signed_in(pool, token, within=timedelta(seconds=2))


def fail(pool: Pool, times: int, *, name: str = "olga", address: str = ADDRESS) -> None:
    for _ in range(times):
        with pytest.raises(SignInFailed):
            sign_in(pool, name, "a wrong password", address)


def actions(connection: Connection) -> list[tuple[str, str, list[str]]]:
    entries = audit.find_entries(connection, most=100)
    return [(entry.action, entry.requester, entry.targets) for entry in reversed(entries)]


def test_who_signs_in_is_recognised_by_the_sessions_token(pool: Pool, olga: str) -> None:
    token = sign_in(pool)
    assert whose(pool, token) == operators.SignedIn(olga, "operator")
    assert whose(pool, f"{token}x") is None


def test_names_do_not_depend_on_their_case(pool: Pool, olga: str) -> None:
    assert whose(pool, sign_in(pool, " OLGA ")) == operators.SignedIn(olga, "operator")


@pytest.mark.usefixtures("olga")
def test_neither_password_nor_token_is_kept(pool: Pool, connection: Connection) -> None:
    token = sign_in(pool)
    for table in ("operators", "sessions", "audit_log"):
        rows = connection.execute(f"SELECT t::text AS row FROM {table} AS t").fetchall()
        assert rows
        assert all(PASSWORD not in row["row"] and token not in row["row"] for row in rows)
    (row,) = connection.execute("SELECT password_hash FROM operators").fetchall()
    assert row["password_hash"].startswith("$argon2id$")


def test_a_wrong_password_and_an_unknown_name_are_refused_in_the_same_words(pool: Pool, olga: str) -> None:
    with pytest.raises(SignInFailed) as wrong:
        sign_in(pool, olga, "a wrong password")
    with pytest.raises(SignInFailed) as unknown:
        sign_in(pool, "nobody", PASSWORD)
    assert str(wrong.value) == str(unknown.value)


@pytest.mark.usefixtures("olga")
def test_after_five_failures_from_one_address_not_even_the_right_password_lets_in(pool: Pool) -> None:
    fail(pool, 5)
    with pytest.raises(SignInThrottled, match="15 minutes"):
        sign_in(pool)


@pytest.mark.usefixtures("olga")
def test_guesses_made_at_once_do_not_slip_past_the_count_together(pool: Pool, connection: Connection) -> None:
    def guess(number: int) -> bool:
        try:
            sign_in(pool, "olga", f"a wrong password {number}")
        except SignInThrottled:
            return False
        except SignInFailed:
            return True
        raise AssertionError

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(guess, range(40))) == 5
    assert len(audit.find_entries(connection, action="sign_in.failed", most=100)) == 5


@pytest.mark.usefixtures("olga")
def test_a_stranger_elsewhere_does_not_lock_an_operator_out(pool: Pool) -> None:
    fail(pool, 5, address="198.51.100.1")
    assert sign_in(pool)


@pytest.mark.usefixtures("olga")
def test_an_address_that_tries_many_names_is_throttled(pool: Pool) -> None:
    for number in range(20):
        fail(pool, 1, name=f"name{number}")
    with pytest.raises(SignInThrottled):
        sign_in(pool)


@pytest.mark.usefixtures("olga")
def test_an_address_within_ipv6_that_tries_many_names_locks_nobody_else_out(pool: Pool) -> None:
    for number in range(20):
        fail(pool, 1, name=f"name{number}", address="::ffff:203.0.113.7")
    for same in ("203.0.113.7", "::ffff:203.0.113.7"):
        with pytest.raises(SignInThrottled):
            sign_in(pool, address=same)
    for other in ("::ffff:203.0.113.8", "203.0.113.8", "2001:db8::1", None):
        assert sign_in(pool, address=other)


@pytest.mark.usefixtures("olga")
def test_failures_of_a_quarter_of_an_hour_ago_do_not_count(pool: Pool, connection: Connection) -> None:
    fail(pool, 5)
    connection.execute("UPDATE audit_log SET at = at - interval '16 minutes'")
    assert sign_in(pool)


def test_a_session_ends_when_it_is_idle_for_long(pool: Pool, connection: Connection, olga: str) -> None:
    token = sign_in(pool, olga)
    connection.execute("UPDATE sessions SET expires_at = now() - interval '1 second'")
    assert whose(pool, token) is None


def test_being_seen_prolongs_a_session_up_to_its_longest(pool: Pool, connection: Connection, olga: str) -> None:
    token = sign_in(pool, olga)
    left = "SELECT expires_at - now() AS time FROM sessions"
    connection.execute(
        "UPDATE sessions SET seen_at = now() - interval '2 hours', expires_at = now() + interval '1 hour'"
    )
    assert whose(pool, token)
    (row,) = connection.execute(left).fetchall()
    assert row["time"] > operators.IDLE - timedelta(minutes=1)
    connection.execute(
        "UPDATE sessions SET seen_at = now() - interval '1 hour', created_at = now() - interval '167 hours'"
    )
    assert whose(pool, token)
    (row,) = connection.execute(left).fetchall()
    assert timedelta() < row["time"] < timedelta(hours=1, minutes=1)


def test_signing_out_ends_one_session_and_everywhere_ends_all(pool: Pool, olga: str) -> None:
    first, second, third = (sign_in(pool, olga) for _ in range(3))
    access.sign_out(pool, first, Requester("console", olga, ADDRESS))
    assert [whose(pool, token) is None for token in (first, second, third)] == [True, False, False]
    assert access.sign_out_everywhere(pool, olga, Requester("console", olga, ADDRESS)) == 2
    assert whose(pool, second) is None
    assert whose(pool, third) is None


def test_a_new_password_ends_the_other_sessions(pool: Pool, olga: str) -> None:
    mine, other = sign_in(pool, olga), sign_in(pool, olga)
    access.change_password(pool, olga, "another password", Requester("console", olga), keep=mine)
    assert whose(pool, mine)
    assert whose(pool, other) is None
    with pytest.raises(SignInFailed):
        sign_in(pool, olga)
    assert sign_in(pool, olga, "another password")


def test_a_removed_operator_is_signed_out_at_once(pool: Pool, olga: str) -> None:
    token = sign_in(pool, olga)
    access.remove_operator(pool, olga, SHELL)
    assert whose(pool, token) is None
    with pytest.raises(SignInFailed):
        sign_in(pool, olga)


def test_another_role_holds_from_the_next_request(pool: Pool, olga: str) -> None:
    token = sign_in(pool, olga)
    access.change_role(pool, olga, "viewer", SHELL)
    assert whose(pool, token) == operators.SignedIn(olga, "viewer")


@pytest.mark.parametrize(
    ("name", "password", "text"),
    [
        ("", PASSWORD, "a name has"),
        ("two words", PASSWORD, "a name has"),
        ("a" * 65, PASSWORD, "a name has"),
        ("new", "too short", "at least 12 characters"),
        ("OLGA", PASSWORD, "there is an operator olga already"),
    ],
)
@pytest.mark.usefixtures("olga")
def test_what_will_not_do_is_refused_with_what_would(pool: Pool, name: str, password: str, text: str) -> None:
    with pytest.raises(AccessRefused, match=text):
        access.add_operator(pool, name, password, "operator", SHELL)


def test_of_nobody_nothing_can_be_changed(pool: Pool) -> None:
    with pytest.raises(AccessRefused, match="there is no operator nobody"):
        access.change_password(pool, "nobody", PASSWORD, SHELL)
    with pytest.raises(AccessRefused, match="there is no operator nobody"):
        access.change_role(pool, "nobody", "viewer", SHELL)
    with pytest.raises(AccessRefused, match="there is no operator nobody"):
        access.remove_operator(pool, "nobody", SHELL)


def test_everything_that_is_done_is_on_record(pool: Pool, connection: Connection, olga: str) -> None:
    fail(pool, 1)
    sign_in(pool)
    access.change_role(pool, olga, "viewer", SHELL)
    access.sign_out_everywhere(pool, olga, Requester("console", olga, ADDRESS))
    access.remove_operator(pool, olga, SHELL)
    assert actions(connection) == [
        ("operator.added", "root", ["olga"]),
        ("sign_in.failed", "olga", []),
        ("sign_in.succeeded", "olga", []),
        ("operator.role_changed", "root", ["olga"]),
        ("sessions.ended", "olga", ["olga"]),
        ("operator.removed", "root", ["olga"]),
    ]
    assert audit.find_entries(connection, action="sign_in.failed", most=1)[0].address == ADDRESS


def test_what_strangers_write_into_the_log_is_forgotten_and_the_rest_is_not(
    pool: Pool, connection: Connection, olga: str
) -> None:
    fail(pool, 2)
    sign_in(pool, olga)
    connection.execute("UPDATE audit_log SET at = at - interval '91 days'")
    fail(pool, 1)
    retention.trim(pool)
    told = [action for action, _, _ in actions(connection)]
    assert told == ["operator.added", "sign_in.succeeded", "sign_in.failed"]


@pytest.mark.usefixtures("olga")
def test_a_password_typed_as_a_name_is_neither_kept_nor_logged(
    pool: Pool, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    typed = "Typed-As-A-Name-7"
    fail(pool, 2, name=typed)
    fail(pool, 1, name="another name")
    rows = connection.execute("SELECT t::text AS row FROM audit_log AS t WHERE action = 'sign_in.failed'").fetchall()
    assert len(rows) == 3
    assert typed.lower() not in f"{rows}{caplog.text}".lower()
    first, second, other = [
        entry.requester for entry in audit.find_entries(connection, action="sign_in.failed", most=3)
    ]
    assert second == other != first, "attempts with one text are counted together"
    assert all(name.startswith(audit.UNKNOWN) and len(name) == len(audit.UNKNOWN) + 4 for name in (first, second))


@pytest.mark.usefixtures("olga")
def test_a_name_that_is_no_operators_is_throttled_as_an_operators_is(pool: Pool) -> None:
    """Otherwise the answers would tell which names there are."""
    fail(pool, 5, name="nobody")
    with pytest.raises(SignInThrottled, match="15 minutes"):
        sign_in(pool, "nobody")


def test_names_that_earlier_releases_kept_are_taken_out(pool: Pool, connection: Connection, olga: str) -> None:
    fail(pool, 1, name=olga)
    connection.execute(
        "INSERT INTO audit_log (channel, requester, action) VALUES ('console', 'typed', 'sign_in.failed')"
    )
    connection.execute("UPDATE audit_log SET at = at - interval '2 hours'")
    retention.trim(pool)
    retention.trim(pool)
    assert [who for action, who, _ in actions(connection) if action == "sign_in.failed"] == [olga, audit.UNKNOWN]


def test_a_sign_in_that_a_new_password_overtakes_opens_nothing(
    pool: Pool, connection: Connection, olga: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = access._verified

    def overtaken(*args: Any) -> str:
        verified = verify(*args)
        access.change_password(pool, olga, "another password", SHELL)
        return verified

    monkeypatch.setattr(access, "_verified", overtaken)
    with pytest.raises(SignInFailed):
        sign_in(pool, olga)
    monkeypatch.undo()
    assert connection.execute("SELECT FROM sessions").fetchall() == []
    assert sign_in(pool, olga, "another password")


def test_a_password_is_kept_by_the_hash_of_the_day(pool: Pool, connection: Connection, olga: str) -> None:
    weak = argon2.PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(PASSWORD)
    connection.execute("UPDATE operators SET password_hash = %(weak)s", {"weak": weak})
    assert sign_in(pool, olga)
    (row,) = connection.execute("SELECT password_hash FROM operators").fetchall()
    assert row["password_hash"] != weak
    assert sign_in(pool, olga)


def test_strangers_elsewhere_do_not_keep_somebody_out_of_where_they_signed_in(
    pool: Pool, connection: Connection, olga: str
) -> None:
    sign_in(pool, olga)
    connection.execute(
        "INSERT INTO audit_log (channel, requester, address, action, detail)"
        " SELECT 'console', 'olga', 'x', 'sign_in.failed', jsonb_build_object('network', 'n' || number)"
        " FROM generate_series(1, 100) AS number"
    )
    assert sign_in(pool, olga)
    with pytest.raises(SignInThrottled):
        sign_in(pool, olga, address="203.0.113.9")


@pytest.mark.usefixtures("olga")
def test_ipv6_addresses_of_one_network_are_counted_together(pool: Pool) -> None:
    for number in range(5):
        fail(pool, 1, address=f"2001:db8::{number:x}")
    with pytest.raises(SignInThrottled):
        sign_in(pool, address="2001:db8::ffff")
    assert sign_in(pool, address="2001:db8:0:1::1")
