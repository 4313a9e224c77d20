"""An address is refused unless every driver takes the same text for its password; what refuses it quotes none of it."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from redis.connection import parse_url

from processors import redaction, service_urls
from processors.errors import ConfigurationError
from processors.settings import Settings

HALVES = ("firstHalf", "otherHalf")
BETWEEN = {
    "@": "@ as %40", "/": "/ as %2F", "?": "? as %3F", "#": "# as %23", ":": ": as %3A", " ": "a blank as %20",
    "[": "[ as %5B", "%": "% as %25", "\u00a0": "a control character", "@@/": "@ as %40, / as %2F", "/12": "/ as %2F",
}  # fmt: skip
FORMS = {
    "DATABASE_URL": "postgres://mirror:{}@127.0.0.1:5/x",
    "REDIS_URL": "redis://:{}@127.0.0.1:5/0",
    "BROKER_URL": "amqps://mirror:{}@127.0.0.1:5/x",
}


def refusal(name: str, value: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ={name: value})
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("between", BETWEEN)
def test_a_password_with_a_delimiter_is_refused_in_one_line_that_names_it_and_not_the_password(
    name: str, between: str
) -> None:
    line = refusal(name, FORMS[name].format(between.join(HALVES)))
    assert line.startswith(f"{name} should hold")
    assert BETWEEN[between] in line
    assert not any(half in line for half in HALVES)


@pytest.mark.parametrize("name", ["SENTRY_DSN", "ALERT_WEBHOOK_URL"])
@pytest.mark.parametrize("between", ["@", "/", "?", "#", ":", " "])
def test_so_are_those_of_the_web(name: str, between: str) -> None:
    line = refusal(name, f"https://mirror:{between.join(HALVES)}@hooks.example/services/1")
    assert line.startswith(f"{name} should hold")
    assert not any(half in line for half in HALVES)


@pytest.mark.parametrize("name", ["PUBLIC_URL", "ZOHO_ACCOUNTS_URL", "ZOHO_API_URL"])
def test_an_address_that_is_shown_holds_no_password(name: str) -> None:
    assert HALVES[0] not in refusal(name, f"https://mirror:{HALVES[0]}@hooks.example/1")


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u:p@host/db?sslmode=require", "postgresql://u@host", "postgres:///db?host=/tmp", "postgres://[::1]:5/x",
        "postgres://a:1,b:2/db", "postgres://u:p@%2Fvar%2Frun/db", "redis://host", "redis://:p@host:6380/1",
        "https://hooks.example/@me?to=a@b.example", "https://u:p@hooks.example:8443/x",
    ],
)  # fmt: skip
def test_what_can_be_read_in_one_way_is_taken_as_it_is(url: str) -> None:
    scheme = url.partition("://")[0]
    assert service_urls.checked(url, scheme) == url


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1), st.booleans())
def test_whatever_is_accepted_is_one_password_for_every_driver(text: str, is_escaped: bool) -> None:
    written = quote(text, safe="") if is_escaped else text
    postgres, redis = f"postgres://u:{written}@127.0.0.1:5/x", f"redis://u:{written}@127.0.0.1:5/0"
    try:
        service_urls.checked(postgres, "postgres")
        service_urls.checked(redis, "redis")
    except ValueError:
        assert not is_escaped
        return
    password = unquote(written)
    assert conninfo_to_dict(postgres)["password"] == password
    assert (conninfo_to_dict(postgres)["host"], urlsplit(postgres).hostname) == ("127.0.0.1", "127.0.0.1")
    assert parse_url(redis)["password"] == password  # type: ignore[no-untyped-call]
    assert set(service_urls.passwords(postgres)) == {written, password}


@pytest.mark.parametrize("secret", ['quo"te and \\ more', "Pässwörter", "plain-secret", "with\nbreak"])
def test_a_secret_is_taken_out_of_texts_however_they_write_it(secret: str) -> None:
    redaction.hide([secret])
    try:
        for text in (secret, json.dumps({"a": secret}), repr([secret]), f"redis://:{quote(secret, safe='')}@host"):
            assert "more" not in redaction.redact(text)
            assert redaction.FILTERED in redaction.redact(text)
    finally:
        redaction.hide([])


def test_the_passwords_of_all_addresses_are_hidden_also_where_a_query_holds_them() -> None:
    settings = Settings.load(
        environ={
            "DATABASE_URL": "postgres://u:one%2Fpassword@host/x?sslpassword=two%20password",
            "REDIS_URL": "redis://host/0?password=three%20password",
            "BROKER_URL": "amqp://u:four%40password@host/x",
            "ALERT_WEBHOOK_URL": "https://u:five%3Apassword@hooks.example/x",
        }
    )
    text = "one/password two password three password four@password five:password"
    assert redaction.redact(text) == " ".join([redaction.FILTERED] * 5)
    assert redaction.reason(ConnectionError("no\n  one/password")) == f"no {redaction.FILTERED}"
    assert redaction.reason(TimeoutError()) == "TimeoutError"
    assert not re.search("password", repr(settings))
    Settings.load(environ={})
