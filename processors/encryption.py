"""Encryption of secrets that rest in Postgres, with keys that can be rotated, each secret bound to its place.

Every place (`table.column`) has keys of its own, derived from those of `ENCRYPTION_KEYS` (HKDF-SHA256): what was copied
from one column to another cannot be read there. Releases before that encrypted with the keys as they are; such
ciphertexts are still read, and written anew by `keys rotate` and with every refresh of the token.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

from processors.errors import ConfigurationError


class SecretBox:
    """Encrypts with the newest key and decrypts with any of them, each place with keys of its own."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take Fernet keys, newest first; settings have checked their form."""
        self._keys = tuple(SecretStr(key) for key in keys)

    def encrypt(self, secret: str, place: str) -> bytes:
        """Return the ciphertext of one secret, to be kept at `place`: table and column, as `zoho_connection.x`."""
        return _bound(self._keys[0], place).encrypt(secret.encode())

    def decrypt(self, ciphertext: bytes, place: str) -> str:
        """Return the secret.

        Raises:
            ConfigurationError: no key of `ENCRYPTION_KEYS` wrote this ciphertext for this place.
        """
        fernets = [*(_bound(key, place) for key in self._keys), *(Fernet(key.get_secret_value()) for key in self._keys)]
        try:
            return MultiFernet(fernets).decrypt(bytes(ciphertext)).decode()
        except InvalidToken:
            message = (
                f"ENCRYPTION_KEYS: none of its keys can read {place} of the stored Zoho credentials; "
                "put the key that wrote them back at the end of the list, or connect Zoho again"
            )
            raise ConfigurationError(message) from None

    def can_decrypt(self, ciphertext: bytes, place: str) -> bool:
        """Tell whether one of the keys wrote this ciphertext for this place, or a release that knew no places."""
        try:
            self.decrypt(ciphertext, place)
        except ConfigurationError:
            return False
        return True

    def is_current(self, ciphertext: bytes, place: str) -> bool:
        """Tell whether the newest key wrote this ciphertext for this place."""
        try:
            _bound(self._keys[0], place).decrypt(bytes(ciphertext))
        except InvalidToken:
            return False
        return True


def _bound(key: SecretStr, place: str) -> Fernet:
    derive = HKDF(hashes.SHA256(), length=32, salt=None, info=f"zoho-mirror {place}".encode())
    return Fernet(base64.urlsafe_b64encode(derive.derive(base64.urlsafe_b64decode(key.get_secret_value()))))
