"""Who may use the console: operators, their passwords, and their sessions."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from datetime import timedelta
from typing import get_args

import argon2

from processors import logs, senders
from processors.errors import AccessRefused, SignInFailed, SignInThrottled
from processors.settings import Settings
from processors.store import audit, operators
from processors.store.audit import Requester
from processors.store.database import Pool
from processors.store.operators import ListedOperator, Operator, Role, Session, SignedIn

SHORTEST_PASSWORD = 12
_LONGEST_PASSWORD = 1000
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")

_WINDOW = timedelta(minutes=15)
# Failures in the window after which nobody is let in: of one name from one address, from one address, of one name from
# everywhere. The last one does not count where the name signed in lately: a stranger must not lock somebody out.
_MOST_BY_BOTH, _MOST_BY_NETWORK, _MOST_BY_NAME = 5, 20, 100
_DO_NOT_BELONG = "name and password do not belong together"

# OWASP's least for argon2id (its password storage guide): 19 MiB and some 30 ms each, one at a time, so that a flood
# of attempts takes neither the memory nor the processor that deliveries need.
_hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_hashing = threading.Lock()
_HASHING_SECONDS = 5.0
# Verified where there is nobody of that name, so that the time an answer takes does not tell.
_NOBODYS_HASH = _hasher.hash(secrets.token_urlsafe())

_log = logs.get(__name__)


def show_webhook_secret(pool: Pool, settings: Settings, requester: Requester) -> str:
    """Return the newest secret of the webhooks; it is noted who saw it."""
    with pool.connection() as connection:
        audit.note(connection, requester, "webhook_secret.shown")
    _log.info("webhook_secret.shown", requested_by=str(requester))
    return settings.zoho_webhook_secrets[0].get_secret_value()


def add_operator(pool: Pool, name: str, password: str, role: Role, requester: Requester) -> Operator:
    """Add a person who may use the console.

    Raises:
        AccessRefused: name, role or password will not do, or the name is taken.
    """
    name = checked_name(name)
    _check_role(role)
    password_hash = _hash(_checked_password(password))
    with pool.connection() as connection, connection.transaction():
        added = operators.add(connection, name, role, password_hash)
        if added is None:
            message = f"there is an operator {name} already; a new password: operator password {name}"
            raise AccessRefused(message)
        audit.note(connection, requester, "operator.added", [name], {"role": role})
    _log.info("operator.added", operator=name, role=role, requested_by=str(requester))
    return added


def change_password(
    pool: Pool,
    name: str,
    password: str,
    requester: Requester,
    *,
    former: str | None = None,
    keep: str | None = None,
) -> None:
    """Give a person another password, and end all sessions but the one whose token is `keep`.

    `former` is the hash that it replaces, if it should replace no other.

    Raises:
        AccessRefused: the password will not do, or there is nobody of that name.
    """
    name = name.strip().lower()
    password_hash = _hash(_checked_password(password))
    with pool.connection() as connection, connection.transaction():
        if not operators.change_password(connection, name, password_hash, former=former):
            raise _nobody(name)
        operators.close_sessions_of(connection, name, but=digest(keep) if keep else None)
        audit.note(connection, requester, "operator.password_changed", [name])
    _log.info("operator.password_changed", operator=name, requested_by=str(requester))


def change_own_password(pool: Pool, password: str, new_password: str, requester: Requester, *, token: str) -> None:
    """Let people change their own password, who know the present one; their other sessions end.

    Raises:
        SignInFailed: the present password is another.
        SignInThrottled: there were too many failures lately.
        AccessRefused: the new one will not do.
    """
    verified = _verified(pool, requester, password)
    change_password(pool, requester.name, new_password, requester, former=verified, keep=token)


def change_role(pool: Pool, name: str, role: Role, requester: Requester) -> None:
    """Let a person act, or only see; it holds from their next request.

    Raises:
        AccessRefused: there is no such role, or nobody of that name.
    """
    name = name.strip().lower()
    _check_role(role)
    with pool.connection() as connection, connection.transaction():
        if not operators.change_role(connection, name, role):
            raise _nobody(name)
        audit.note(connection, requester, "operator.role_changed", [name], {"role": role})
    _log.info("operator.role_changed", operator=name, role=role, requested_by=str(requester))


def remove_operator(pool: Pool, name: str, requester: Requester) -> None:
    """Remove a person, who is signed out at once.

    Raises:
        AccessRefused: there is nobody of that name.
    """
    name = name.strip().lower()
    with pool.connection() as connection, connection.transaction():
        if not operators.remove(connection, name):
            raise _nobody(name)
        audit.note(connection, requester, "operator.removed", [name])
    _log.info("operator.removed", operator=name, requested_by=str(requester))


def list_operators(pool: Pool) -> list[ListedOperator]:
    """Return everybody who may use the console."""
    with pool.connection() as connection:
        return operators.listed(connection)


def anybody_may_sign_in(pool: Pool) -> bool:
    """Tell whether there is any operator."""
    with pool.connection() as connection:
        return operators.any_exists(connection)


def sign_in(pool: Pool, name: str, password: str, *, address: str | None, browser: str, key: str) -> str:
    """Return the token of a new session.

    A name that is no operator's may be a password, typed into the wrong field: only a digest of it, made with `key`, is
    logged, kept and counted.

    Raises:
        SignInFailed: name and password do not belong together; which of them is wrong is not told.
        SignInThrottled: there were too many failures lately, or too many try at this moment.
    """
    name = _name_on_record(pool, name.strip().lower(), key)
    requester = Requester("console", name, address)
    verified = _verified(pool, requester, password)
    kept = _hash(password) if _hasher.check_needs_rehash(verified) else verified
    token = secrets.token_urlsafe(32)
    with pool.connection() as connection, connection.transaction():
        # Nobody gave the name another password meanwhile, nor does until the session is there to be ended by that.
        if not operators.change_password(connection, name, kept, former=verified):
            raise SignInFailed(_DO_NOT_BELONG)
        operators.open_session(connection, digest(token), name, address=address, browser=browser[:200])
        audit.note(connection, requester, "sign_in.succeeded", detail={"network": _network(address)})
    _log.info("sign_in.succeeded", operator=name, address=address)
    return token


def _name_on_record(pool: Pool, name: str, key: str) -> str:
    """Return an operator's name as it is, and anything else as a short digest, which is no operator's name."""
    with pool.connection() as connection:
        if operators.password_hash(connection, name) is not None:
            return name
    # So short that many texts have the same one: whoever learns the key learns no password from it.
    return f"{audit.UNKNOWN}{hmac.digest(key.encode(), name.encode(), 'sha256').hex()[:4]}"


def _verified(pool: Pool, requester: Requester, password: str) -> str:
    """Return what is kept of the password of whoever asks, if it is this one; failures are on record, and count."""
    if not _hashing.acquire(timeout=_HASHING_SECONDS):
        message = "too many sign in at this moment; try again"
        raise SignInThrottled(message)
    try:
        return _verified_alone(pool, requester, password)
    finally:
        _hashing.release()


def _verified_alone(pool: Pool, requester: Requester, password: str) -> str:
    # Counted, verified and noted by one thread at a time: many guesses at once do not slip past the count together.
    name, address, network = requester.name, requester.address, _network(requester.address)
    with pool.connection() as connection:
        failed = audit.failed_sign_ins(connection, name, network, _WINDOW, known_for=operators.LONGEST)
        stored = operators.password_hash(connection, name)
    is_throttled = (
        failed.by_both >= _MOST_BY_BOTH
        or failed.by_network >= _MOST_BY_NETWORK
        # What strangers do elsewhere keeps nobody out of where they sign in anyway.
        or (failed.by_name >= _MOST_BY_NAME and not failed.is_known_here)
    )
    if is_throttled:
        _log.warning("sign_in.throttled", operator=name, address=address)
        message = f"too many attempts failed; try again in {_WINDOW.total_seconds() / 60:.0f} minutes"
        raise SignInThrottled(message)
    if _is_password_of(stored or _NOBODYS_HASH, password) and stored is not None:
        return stored
    with pool.connection() as connection:
        audit.note(connection, requester, "sign_in.failed", detail={"network": network})
    _log.warning("sign_in.failed", operator=name, address=address)
    raise SignInFailed(_DO_NOT_BELONG)


def _network(address: str | None) -> str | None:
    """Return what an address is counted by; None, which nothing is counted by, where there is none."""
    return senders.counted_as(address) if address else None


def signed_in(pool: Pool, token: str, *, within: timedelta) -> SignedIn | None:
    """Return whose session it is; None: nobody's, or not any more. `within` bounds the wait for a connection."""
    with pool.connection(timeout=within.total_seconds()) as connection:
        return operators.find_session(connection, digest(token))


def sessions_of(pool: Pool, name: str) -> list[Session]:
    """Return where somebody is signed in."""
    with pool.connection() as connection:
        return operators.sessions_of(connection, name)


def is_of(session: Session, token: str) -> bool:
    """Tell whether a session is the one with this token."""
    return session.digest == digest(token)


def sign_out(pool: Pool, token: str, requester: Requester) -> None:
    """End one session."""
    with pool.connection() as connection, connection.transaction():
        operators.close_session(connection, digest(token))
        audit.note(connection, requester, "session.ended")


def sign_out_everywhere(pool: Pool, name: str, requester: Requester) -> int:
    """End all sessions of somebody; return how many ended."""
    with pool.connection() as connection, connection.transaction():
        ended = operators.close_sessions_of(connection, name)
        audit.note(connection, requester, "sessions.ended", [name], {"sessions": ended})
    _log.info("sessions.ended", operator=name, sessions=ended, requested_by=str(requester))
    return ended


def digest(token: str) -> bytes:
    """Return what is kept of a random text that opens something."""
    return hashlib.sha256(token.encode()).digest()


def _hash(password: str) -> str:
    with _hashing:
        return _hasher.hash(password)


def _is_password_of(password_hash: str, password: str) -> bool:
    try:
        return len(password) <= _LONGEST_PASSWORD and _hasher.verify(password_hash, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def checked_name(name: str) -> str:
    """Return the name of a person or a program as it is kept.

    Raises:
        AccessRefused: it will not do.
    """
    name = name.strip().lower()
    if not _NAME.fullmatch(name):
        message = "a name has 1 to 64 letters, digits or . _ @ + - and begins with a letter or a digit"
        raise AccessRefused(message)
    return name


def _checked_password(password: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
        message = f"a password has at least {SHORTEST_PASSWORD} characters"
        raise AccessRefused(message)
    return password


def _check_role(role: str) -> None:
    if role not in get_args(Role):
        message = f"there is no role {role}; there are: {', '.join(get_args(Role))}"
        raise AccessRefused(message)


def _nobody(name: str) -> AccessRefused:
    return AccessRefused(f"there is no operator {name}; see: operator list")
