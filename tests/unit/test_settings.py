"""A wrong or missing setting is one line that names the variable and what it should hold, and never shows a secret."""

from __future__ import annotations

import traceback
from decimal import Decimal
from ipaddress import ip_network
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.errors import ConfigurationError
from processors.settings import HOSTS, Settings

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
MARK = "hushHushHush"

WRONG = {
    "DATABASE_URL": (
        "mysql://x/y",
        "postgres",
        "postgres:// spaced",
        f"{MARK}@localhost",
        f"postgres://u:{MARK}%zz@host",
    ),
    "REDIS_URL": ("http://x", "localhost:6379", "redis://", f"redis://:{MARK}/x@host", "redis://host:65536"),
    "REDIS_TLS_VERIFY": ("maybe", "2"),
    "PORT": ("http", "0", "65536", "-1", "80.5", "9" * 5_000),
    "ZOHO_DATA_CENTER": ("us", "COM", "zoho.com"),
    "ZOHO_ACCOUNTS_URL": ("accounts.zoho.com", "ftp://x", "https://", "https://x?y=1"),
    "ZOHO_API_URL": ("www.zohoapis.com", "https://x y"),
    "ZOHO_ORGANIZATION_ID": ("my shop", "12a", "1" * 21),
    "ZOHO_WEBHOOK_SECRETS": (MARK[:11], "x" * 51, f"{MARK},{MARK}-1", f"{MARK} {MARK}", "gehöchstGeheim"),
    "ZOHO_REQUESTS_PER_MINUTE": ("0", "101", "many"),
    "ZOHO_REQUESTS_PER_DAY": ("0", "-1", "1e3"),
    "ZOHO_CONCURRENT_REQUESTS": ("0", "11", ""),
    "ENCRYPTION_KEYS": (MARK, f"{KEY},{MARK}", KEY[:-2], "ü" * 44),
    "SESSION_SECRET": (MARK, "x" * 31),
    "RECONCILE_FULL_CRON": ("daily", "0 2 * *", "0 25 * * *", "* * * * * *", "@daily"),
    "RECONCILE_RECENT_CRON": ("*/0 * * * *", "x y z a b"),
    "TIMEZONE": ("Berlin", "Europe", "../../etc/passwd", "/etc/passwd", "Europe\x00Berlin"),
    "DELETE_GUARD_PERCENT": ("-1", "101", "NaN", "Infinity", "five"),
    "WEBHOOK_ALLOWED_NETWORKS": ("10.0.0.0/33", "10.0.0.1/8", "zoho.com", "10.0.0.0/8,zoho"),
    "TRUSTED_PROXIES": ("-1", "11", "yes"),
    "WEBHOOK_MAX_BYTES": ("1023", "1 MiB", "-1"),
    "METRICS_TOKEN": (MARK[:15], "x" * 15, f"{MARK} {MARK} {MARK}", "gehöchstGeheimesWort"),
    "LOG_FORMAT": ("text", "JSON"),
    "LOG_LEVEL": ("loud", "trace"),
    "SENTRY_DSN": (MARK, "https:// x"),
    "ALERT_WEBHOOK_URL": (MARK, "slack", "https://"),
}


def _problems(*required: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(*required, environ=environ)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values if value]
)
def test_each_wrong_value_is_one_line_that_names_its_variable_and_what_it_should_hold(name: str, value: str) -> None:
    (line,) = _problems(**{name: value})

    described = Settings.model_fields[name.lower()].description
    assert described
    assert line.startswith(f"{name} should hold {described}")
    assert MARK[:11] not in line


def test_every_setting_says_what_it_should_hold() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    "name",
    [
        "DATABASE_URL",
        "ZOHO_WEBHOOK_SECRETS",
        "ENCRYPTION_KEYS",
        "SESSION_SECRET",
        "SENTRY_DSN",
        "ALERT_WEBHOOK_URL",
        "METRICS_TOKEN",
    ],
)
def test_a_wrong_secret_is_not_shown_anywhere(name: str) -> None:
    value = f"!{MARK[:8]}"
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ={name: value, "ZOHO_CLIENT_SECRET": MARK, "ZOHO_REFRESH_TOKEN": MARK})

    assert MARK[:8] not in "".join(traceback.format_exception(caught.value, chain=False))
    assert MARK[:8] not in str(caught.value)


def test_right_secrets_are_not_shown_when_settings_are_printed() -> None:
    settings = Settings.load(
        environ={
            "ZOHO_WEBHOOK_SECRETS": MARK,
            "ZOHO_CLIENT_SECRET": MARK,
            "ZOHO_REFRESH_TOKEN": MARK,
            "ENCRYPTION_KEYS": KEY,
            "SESSION_SECRET": MARK * 4,
            "SENTRY_DSN": f"https://{MARK}@sentry.io/1",
            "METRICS_TOKEN": MARK * 2,
            "ALERT_WEBHOOK_URL": f"https://hooks.example/{MARK}",
        }
    )

    shown = f"{settings!r} {settings} {settings.model_dump()}"
    assert MARK not in shown
    assert KEY not in shown


def test_all_problems_are_told_at_once_one_line_for_each_variable() -> None:
    lines = _problems(
        "DATABASE_URL",
        "REDIS_URL",
        "ZOHO_WEBHOOK_SECRETS",
        PORT="x",
        ZOHO_WEBHOOK_SECRETS="short,ten-signs!,alsoShort",
        WEBHOOK_ALLOWED_NETWORKS="a,b,c",
        REDIS_URL="nowhere",
    )

    assert sorted(line.split()[0] for line in lines) == [
        "DATABASE_URL",
        "PORT",
        "REDIS_URL",
        "WEBHOOK_ALLOWED_NETWORKS",
        "ZOHO_WEBHOOK_SECRETS",
    ]
    assert lines[0] == (
        "DATABASE_URL is missing; it should hold a Postgres address, postgres://user:password@host:5432/name"
    )


@pytest.mark.parametrize("value", [None, "", "  ", ",", " , ,"])
def test_a_required_variable_that_holds_nothing_is_missing(value: str | None) -> None:
    """A list of commas holds no secret: web would refuse every delivery."""
    (line,) = _problems("ZOHO_WEBHOOK_SECRETS", **({} if value is None else {"ZOHO_WEBHOOK_SECRETS": value}))

    assert line.startswith("ZOHO_WEBHOOK_SECRETS is missing; it should hold the secrets of Zoho's webhook form")


@pytest.mark.parametrize("keys", ["", ","])
def test_a_refresh_token_needs_a_key_to_be_stored_with(keys: str) -> None:
    (line,) = _problems(ZOHO_REFRESH_TOKEN=MARK, ENCRYPTION_KEYS=keys)

    assert line.startswith("ENCRYPTION_KEYS is missing; with ZOHO_REFRESH_TOKEN it should hold Fernet keys")
    assert MARK not in line


def test_an_empty_environment_gives_the_defaults_of_the_documentation() -> None:
    settings = Settings.load(environ={"PATH": "/bin", "PORT": "", "LOG_LEVEL": " "})

    assert (settings.port, settings.database_url, settings.redis_url) == (8000, None, None)
    assert (settings.zoho_requests_per_minute, settings.zoho_requests_per_day) == (90, 2000)
    assert (settings.zoho_concurrent_requests, settings.zoho_webhook_secrets) == (4, ())
    assert (settings.reconcile_full_cron, settings.reconcile_recent_cron) == ("0 2 * * *", "*/10 * * * *")
    assert (settings.timezone, settings.delete_guard_percent) == (ZoneInfo("UTC"), Decimal(5))
    assert (settings.webhook_max_bytes, settings.trusted_proxies) == (1024 * 1024, 0)
    assert (settings.webhook_allowed_networks, settings.redis_tls_verify) == ((), True)
    assert (settings.log_format, settings.log_level) == ("json", "info")
    assert HOSTS[settings.zoho_data_center] == ("https://accounts.zoho.com", "https://www.zohoapis.com")


def test_right_values_are_taken() -> None:
    settings = Settings.load(
        "DATABASE_URL",
        "REDIS_URL",
        environ={
            "DATABASE_URL": "postgres://u:p@host/db?sslmode=require",
            "REDIS_URL": "rediss://:p@host:6380",
            "REDIS_TLS_VERIFY": "false",
            "ZOHO_DATA_CENTER": "ca",
            "ZOHO_API_URL": "http://localhost:9000/prefix/",
            "ZOHO_WEBHOOK_SECRETS": f" {MARK} , {'x' * 50},",
            "ENCRYPTION_KEYS": f"{KEY},{KEY}",
            "WEBHOOK_ALLOWED_NETWORKS": "10.0.0.0/8, 2001:db8::/32,192.0.2.1",
            "TIMEZONE": "Asia/Kolkata",
            "DELETE_GUARD_PERCENT": "2.5",
            "RECONCILE_FULL_CRON": "30 3 * * 1-5",
        },
    )

    assert [secret.get_secret_value() for secret in settings.zoho_webhook_secrets] == [MARK, "x" * 50]
    assert settings.webhook_allowed_networks == tuple(map(ip_network, ("10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32")))
    assert HOSTS[settings.zoho_data_center][0] == "https://accounts.zohocloud.ca"
    assert settings.zoho_api_url == "http://localhost:9000/prefix"
    assert settings.delete_guard_percent == Decimal("2.5")
    assert settings.redis_tls_verify is False


@given(st.dictionaries(st.sampled_from(sorted(WRONG)), st.text(min_size=1)))
def test_any_environment_is_either_read_or_explained(environ: dict[str, str]) -> None:
    try:
        Settings.load(environ=environ)
    except ConfigurationError as error:
        lines = str(error).split("\n")
        assert len(lines) == len({line.split()[0] for line in lines})
        assert {line.split()[0] for line in lines} <= set(environ)


PASTED = {
    "a byte order mark": "\ufeff{}",
    "a misread byte order mark": "\u00ef\u00bb\u00bf{}",
    "line ends": "\r\n{}\n",
    "blanks": " \t\u00a0{}\u3000 ",
    "invisible characters": "\u200b{}\u2060",
    "quotes": '"{}"',
    "single quotes": "'{}'",
    "typographic quotes": "\u201c{}\u201d",
    "low quotes": "\u201e{}\u201c",
    "angle quotes": "\u00ab{}\u00bb",
    "all of it": "\ufeff \u201c'{}'\u201d\r\n",
}
RIGHT = {
    "DATABASE_URL": "postgres://a:b@host:5432/name",
    "REDIS_URL": "redis://host:6379/0",
    "PORT": "8001",
    "ZOHO_DATA_CENTER": "eu",
    "ZOHO_ORGANIZATION_ID": "60011",
    "ZOHO_CLIENT_ID": "1000.CLIENT",
    "ZOHO_CLIENT_SECRET": "abcdef",
    "ZOHO_WEBHOOK_SECRETS": f"{MARK},{'x' * 50}",
    "ZOHO_API_URL": "https://api.example",
    "SESSION_SECRET": "s" * 32,
    "RECONCILE_FULL_CRON": "0 3 * * *",
    "TIMEZONE": "Europe/Berlin",
    "DELETE_GUARD_PERCENT": "7.5",
    "LOG_LEVEL": "debug",
    "REDIS_TLS_VERIFY": "false",
    "TRUSTED_PROXIES": "1",
    "WEBHOOK_ALLOWED_NETWORKS": "10.0.0.0/8,192.168.0.0/16",
}


@pytest.mark.parametrize("around", PASTED.values(), ids=PASTED)
def test_what_pasting_adds_around_a_value_is_no_part_of_it(around: str) -> None:
    """Of any setting, in one place."""
    pasted = {name: around.format(value) for name, value in RIGHT.items()}
    assert Settings.load(environ=pasted) == Settings.load(environ=RIGHT)


def test_each_part_of_a_list_may_be_quoted() -> None:
    whole = Settings.load(environ={"ZOHO_WEBHOOK_SECRETS": f"{MARK},{'x' * 50}"})
    assert Settings.load(environ={"ZOHO_WEBHOOK_SECRETS": f'"{MARK}",\n"{"x" * 50}"\n'}) == whole


@pytest.mark.parametrize("value", ['""', "\u201c\u201d", " ' ' ", "\ufeff", "\u200b\n", '",,"', '"'])
def test_quotes_around_nothing_are_nothing(value: str) -> None:
    assert Settings.load(environ=dict.fromkeys(RIGHT, value)) == Settings.load(environ={})


@pytest.mark.parametrize("name", sorted(name for name, value in RIGHT.items() if len(value) > 2))
@pytest.mark.parametrize("inside", ["\n", "\r", "\0", "\x1b", "\u200b", "\ufeff", "\u2028", "\udc80"])
def test_an_unprintable_character_inside_is_refused_by_name(name: str, inside: str) -> None:
    half = RIGHT[name][:2] + inside + RIGHT[name][2:]
    (line,) = _problems(**{name: half})
    assert line.startswith(f"{name} should hold ")
    assert f"U+{ord(inside):04X}" in line


@pytest.mark.parametrize("name", ["ZOHO_CLIENT_ID", "ZOHO_CLIENT_SECRET", "SESSION_SECRET", "PUBLIC_URL"])
@pytest.mark.parametrize("form", ['"{}', "{}'", "\u201c{}"])
def test_a_quotation_mark_at_one_end_is_refused(name: str, form: str) -> None:
    value = form.format("https://shop.example/with/some/length")
    (line,) = _problems(**{name: value})
    assert line.startswith(f"{name} should hold ")
    assert "shop" not in line


@pytest.mark.parametrize("value", ["1000.a b", 'a"b', "1000.ü"])
@pytest.mark.parametrize("name", ["ZOHO_CLIENT_ID", "ZOHO_CLIENT_SECRET", "ZOHO_REFRESH_TOKEN"])
def test_what_zoho_never_gives_is_not_sent_to_it(name: str, value: str) -> None:
    lines = _problems(ENCRYPTION_KEYS=KEY, **{name: value})
    assert [line.split()[0] for line in lines] == [name]


@pytest.mark.parametrize("value", ["0", "060011", "\uff16\uff10", "1" * 21])
def test_an_organisation_is_named_in_one_spelling(value: str) -> None:
    (line,) = _problems(ZOHO_ORGANIZATION_ID=value)
    assert line.startswith("ZOHO_ORGANIZATION_ID should hold ")
