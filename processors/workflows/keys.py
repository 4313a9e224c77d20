"""The keys of ENCRYPTION_KEYS: a new one takes over what the older ones wrote, while everything runs."""

from __future__ import annotations

from dataclasses import dataclass

from processors import logs
from processors.encryption import SecretBox
from processors.errors import ConfigurationError
from processors.settings import Settings
from processors.store import audit, zoho_connection
from processors.store.audit import Requester
from processors.store.database import Pool

_log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Rotated:
    """What is stored, by the key that reads it now; what is not bound to its column is encrypted anew, too."""

    encrypted_anew: list[str]
    was_newest: list[str]


def rotate(pool: Pool, settings: Settings, requester: Requester) -> Rotated:
    """Encrypt all that is stored with the newest key. Safe at any time, and to repeat.

    The row is locked as for a refresh of the token: none that comes meanwhile is lost.

    Raises:
        ConfigurationError: there is no key, or none that reads one of the secrets; nothing was changed.
        TokenThrottled: another process has held the row for long.
    """
    if not settings.encryption_keys:
        message = "ENCRYPTION_KEYS is not set; make a key: python -m processors keys generate"
        raise ConfigurationError(message)
    keys = [key.get_secret_value() for key in settings.encryption_keys]
    box, newest = SecretBox(keys), SecretBox(keys[:1])
    anew: dict[str, bytes] = {}
    was_newest = []
    with pool.connection() as connection, connection.transaction():
        zoho_connection.lock(connection)
        for name, ciphertext in zoho_connection.ciphertexts(zoho_connection.read(connection)).items():
            place = zoho_connection.place_of(name)
            if newest.is_current(ciphertext, place):
                was_newest.append(name)
            else:
                anew[name] = newest.encrypt(box.decrypt(ciphertext, place), place)
        if anew:
            zoho_connection.replace_ciphertexts(connection, anew)
        audit.note(connection, requester, "keys.rotated", [], {"encrypted_anew": sorted(anew)})
    _log.info("keys.rotated", encrypted_anew=sorted(anew), requested_by=str(requester))
    return Rotated(sorted(anew), was_newest)
