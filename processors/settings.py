"""Every setting, read once from the environment where a process starts, and passed down."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg
from cronsim import CronSim, CronSimError
from cryptography.fernet import Fernet
from psycopg.conninfo import conninfo_to_dict
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from processors import redaction, senders, service_urls
from processors.errors import ConfigurationError
from processors.pasting import cleaned, cleaned_parts

DataCenter = Literal["com", "eu", "in", "com.au", "jp", "ca", "sa", "com.cn", "uk"]

# Accounts and API hosts by data centre: Zoho's multi-DC guide and the Inventory API introduction, both read
# in October 2026. The UK API host is presumed: only the accounts documentation lists that data centre.
HOSTS: dict[DataCenter, tuple[str, str]] = {
    "com": ("https://accounts.zoho.com", "https://www.zohoapis.com"),
    "eu": ("https://accounts.zoho.eu", "https://www.zohoapis.eu"),
    "in": ("https://accounts.zoho.in", "https://www.zohoapis.in"),
    "com.au": ("https://accounts.zoho.com.au", "https://www.zohoapis.com.au"),
    "jp": ("https://accounts.zoho.jp", "https://www.zohoapis.jp"),
    "ca": ("https://accounts.zohocloud.ca", "https://www.zohoapis.ca"),
    "sa": ("https://accounts.zoho.sa", "https://www.zohoapis.sa"),
    "com.cn": ("https://accounts.zoho.com.cn", "https://www.zohoapis.com.cn"),
    "uk": ("https://accounts.zoho.uk", "https://www.zohoapis.uk"),
}


def _matches(pattern: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            message = "does not have that form"
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _service_url(*schemes: str) -> AfterValidator:
    return AfterValidator(lambda url: service_urls.checked(url, *schemes))


def _secret_service_url(*schemes: str) -> AfterValidator:
    def check(url: SecretStr) -> SecretStr:
        service_urls.checked(url.get_secret_value(), *schemes)
        return url

    return AfterValidator(check)


def _read_by_libpq(value: str) -> str:
    try:
        conninfo_to_dict(value)
    except psycopg.Error:
        # Its own words quote the address.
        message = "libpq cannot read it: is there a character in it that must be percent-encoded?"
        raise ValueError(message) from None
    return value


def _webhook_secret(value: SecretStr) -> SecretStr:
    # The limits of Zoho's own form: a longer secret is cut there, and then no signature ever matches.
    if not re.fullmatch(r"[A-Za-z0-9]{12,50}", value.get_secret_value()):
        message = f"one of them has {len(value.get_secret_value())} characters or a sign that is neither"
        raise ValueError(message)
    return value


def _secret_matches(pattern: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: SecretStr) -> SecretStr:
        if not compiled.fullmatch(value.get_secret_value()):
            message = "does not have that form"
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _fernet_key(value: SecretStr) -> SecretStr:
    if re.fullmatch(r"[0-9a-fA-F]{64}", value.get_secret_value()):
        # The same 32 bytes, as Heroku's button generates them.
        value = SecretStr(base64.urlsafe_b64encode(bytes.fromhex(value.get_secret_value())).decode())
    try:
        Fernet(value.get_secret_value())
    except ValueError:
        message = "one of them is not such a key"
        raise ValueError(message) from None
    return value


def _cron(value: str) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415 - needed nowhere else

    try:
        CronSim(value, datetime.now(UTC))
    except CronSimError as error:
        raise ValueError(str(error)) from None
    if len(value.split()) != 5:  # noqa: PLR2004 - CronSim would take a sixth for seconds
        message = "it has not five fields"
        raise ValueError(message)
    return value


def _zone(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        message = "no zone has that name"
        raise ValueError(message) from None


# Shown, logged and sent to others: no place for a password.
HttpUrl = Annotated[str, _matches(r"https?://[^\s/?#@]+(/[^\s?#]*)?"), AfterValidator(lambda url: url.rstrip("/"))]
Network = Annotated[IPv4Network | IPv6Network, AfterValidator(senders.network_of)]
Cron = Annotated[str, AfterValidator(_cron)]
WebhookSecret = Annotated[SecretStr, AfterValidator(_webhook_secret)]
DatabaseUrl = Annotated[
    str, _service_url("postgres", "postgresql"), _matches(r"[a-z]+://\S+"), AfterValidator(_read_by_libpq)
]
RedisUrl = Annotated[str, _service_url("redis", "rediss"), _matches(r"[a-z]+://\S+")]
SecretUrl = Annotated[SecretStr, _secret_service_url("http", "https"), _secret_matches(r"[a-z]+://[^\s/]+(/\S*)?")]
BrokerUrl = Annotated[SecretStr, _secret_service_url("amqp", "amqps"), _secret_matches(r"[a-z]+://[^\s/]+(/\S*)?")]
# Of another form, Sentry's own library would refuse it with a traceback.
SentryDsn = Annotated[SecretUrl, _secret_matches(r"https?://[^@/]+@[^@/]+(/[^?#]*)?/[0-9]+")]
# What Zoho gives is letters, digits and dots; blanks and quotation marks come from pasting.
_CREDENTIAL = r"[!#-&(-_a-~]{1,500}"
Credential = Annotated[SecretStr, _secret_matches(_CREDENTIAL)]
FernetKey = Annotated[SecretStr, AfterValidator(_fernet_key)]


class Settings(BaseModel):
    """The environment, checked. Each description completes the sentence “it should hold …”."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True, hide_input_in_errors=True)

    database_url: DatabaseUrl | None = Field(
        None, repr=False, description="a Postgres address, postgres://user:password@host:5432/name"
    )
    redis_url: RedisUrl | None = Field(
        None, repr=False, description="a Redis address, redis://host:6379/0 or rediss://…"
    )
    redis_tls_verify: bool = Field(default=True, description="true or false")
    broker_url: BrokerUrl | None = Field(
        None, description="a RabbitMQ address, amqp://user:password@host:5672/name or amqps://…, or nothing"
    )
    port: int = Field(8000, ge=1, le=65535, description="a port number, 1 to 65535")
    public_url: HttpUrl | None = Field(
        None, description="the address under which Zoho reaches web, https://host, or nothing"
    )

    zoho_data_center: DataCenter = Field(
        "com", description="the ending of your Zoho address: com, eu, in, com.au, jp, ca, sa, com.cn or uk"
    )
    zoho_accounts_url: HttpUrl | None = Field(None, description="the accounts server, https://host, or nothing")
    zoho_api_url: HttpUrl | None = Field(None, description="the API server, https://host, or nothing")
    zoho_organization_id: Annotated[str, _matches(r"[1-9][0-9]{0,19}")] | None = Field(
        None, description="the organisation's number, digits only (Zoho Inventory: Settings > Organization Profile)"
    )
    zoho_client_id: Annotated[str, _matches(_CREDENTIAL)] | None = Field(
        None, description="the OAuth client's id, 1000.…"
    )
    zoho_client_secret: Credential | None = Field(None, description="the OAuth client's secret")
    zoho_refresh_token: Credential | None = Field(None, description="a refresh token, 1000.…")
    zoho_webhook_secrets: tuple[WebhookSecret, ...] = Field(
        (),
        description="the secrets of Zoho's webhook form, newest first, comma-separated, 12–50 letters and digits each",
    )
    zoho_requests_per_minute: int = Field(90, ge=1, le=100, description="a number from 1 to 100")
    zoho_requests_per_day: int = Field(2000, ge=1, description="a number from 1")
    zoho_concurrent_requests: int = Field(4, ge=1, le=10, description="a number from 1 to 10")

    encryption_keys: tuple[FernetKey, ...] = Field(
        (), description="Fernet keys (32 bytes in url-safe base64, or in hex), newest first, comma-separated"
    )
    session_secret: SecretStr | None = Field(None, min_length=32, description="at least 32 random characters")

    reconcile_full_cron: Cron = Field("0 2 * * *", description="a cron expression of five fields")
    reconcile_recent_cron: Cron = Field("*/10 * * * *", description="a cron expression of five fields")
    timezone: Annotated[ZoneInfo, BeforeValidator(_zone)] = Field(
        default=ZoneInfo("UTC"), description="a time zone's name, such as Europe/Berlin"
    )
    delete_guard_percent: Decimal = Field(Decimal(5), ge=0, le=100, description="a percentage, 0 to 100")

    webhook_allowed_networks: tuple[Network, ...] = Field(
        (), description="networks in CIDR form, comma-separated, or nothing"
    )
    trusted_proxies: int = Field(0, ge=0, le=10, description="the number of proxies in front (1 on Heroku), 0 to 10")
    webhook_max_bytes: int = Field(1024 * 1024, ge=1024, description="a number of bytes from 1024")

    metrics_token: Annotated[SecretStr, _secret_matches(r"[!-~]{16,}")] | None = Field(
        None, description="at least 16 random letters, digits or signs, without blanks, or nothing: /metrics is open"
    )

    log_format: Literal["json", "console"] = Field("json", description="json or console")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")
    sentry_dsn: SentryDsn | None = Field(None, description="a Sentry DSN, https://…, or nothing")
    alert_webhook_url: SecretUrl | None = Field(None, description="an http(s) address, or nothing")

    @field_validator("*", mode="before")
    @classmethod
    def _clean(cls, value: object, info: ValidationInfo) -> object:
        """Take away what pasting adds around a value, whichever setting it is; a list is split at its commas."""
        if not isinstance(value, str):
            return value
        return cleaned_parts(value) if _is_list(str(info.field_name)) else cleaned(value)

    @model_validator(mode="after")
    def _credentials_need_keys(self) -> Self:
        if self.zoho_refresh_token and not self.encryption_keys:
            message = "ENCRYPTION_KEYS"
            raise ValueError(message)
        return self

    @classmethod
    def load(cls, *required: str, environ: Mapping[str, str] = os.environ) -> Self:
        """Read the environment; an empty value counts as unset. Its secrets are hidden from then on (`redaction`).

        `required` names the variables without which this process cannot do its work.

        Raises:
            ConfigurationError: one line for each variable that is wrong or missing.
        """
        given = _given(environ)
        if "broker_url" in given:
            # Redis carries messages, and nothing else.
            required = tuple(name for name in required if name != "REDIS_URL")
        missing = [name for name in required if name.lower() not in given]
        problems = [f"{name} is missing; it should hold {_described(name)}" for name in missing]
        try:
            settings = cls.model_validate(given)
        except ValidationError as error:
            problems += [line for line in _problems(error) if line.split()[0].rstrip(":") not in missing]
        if problems:
            raise ConfigurationError("\n".join(dict.fromkeys(problems)))
        redaction.hide(settings.secrets())
        return settings

    def secrets(self) -> Iterator[str]:
        """Yield the value of every setting that is a secret, and the passwords in addresses."""
        urls = [url for url in (self.database_url, self.redis_url) if url]
        for name in type(self).model_fields:
            value = getattr(self, name)
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, SecretStr):
                    yield each.get_secret_value()
                    urls.append(each.get_secret_value())
        for url in urls:
            yield from service_urls.passwords(url)


def load_what_is_right(*required: str, environ: Mapping[str, str] = os.environ) -> tuple[Settings, list[str]]:
    """Return the settings without those that are wrong, and the line for each that is wrong or missing."""
    try:
        return Settings.load(*required, environ=environ), []
    except ConfigurationError as error:
        lines = str(error).splitlines()
    wrong = {line.split()[0] for line in lines}
    right = {name: value for name, value in environ.items() if name.upper() not in wrong}
    if "ENCRYPTION_KEYS" in wrong:
        # It goes with the keys alone.
        right.pop("ZOHO_REFRESH_TOKEN", None)
    return Settings.load(environ=right), lines


def _is_list(name: str) -> bool:
    return isinstance(Settings.model_fields[name].default, tuple)


def _is_empty(value: str) -> bool:
    """Tell whether nothing is left of a value; a list of nothing but commas is as good as none."""
    try:
        return not cleaned_parts(value)
    except ValueError:
        return False


def _given(environ: Mapping[str, str]) -> dict[str, str]:
    named = {name.lower(): value for name, value in environ.items()}
    known = {*Settings.model_fields, "heroku_app_default_domain_name"}
    given = {name: value for name, value in named.items() if name in known and not _is_empty(value)}
    domain = given.get("heroku_app_default_domain_name")
    return {"public_url": f"https://{domain}", **given} if domain else given


def _described(name: str) -> str:
    return str(Settings.model_fields[name.lower()].description)


def _problems(error: ValidationError) -> list[str]:
    """One line for each variable. Values are never shown: many of them are secrets."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_input=False, include_url=False):
        if problem["loc"]:
            name = str(problem["loc"][0]).upper()
            reason = f"; {problem['ctx']['error']}" if problem["type"] == "value_error" else ""
            lines.setdefault(name, f"{name} should hold {_described(name)}{reason}")
        else:
            name = str(problem["ctx"]["error"])
            lines[name] = f"{name} is missing; with ZOHO_REFRESH_TOKEN it should hold {_described(name)}"
    return list(lines.values())
