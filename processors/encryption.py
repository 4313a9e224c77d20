"""Encryption of secrets that rest in Postgres, with keys that can be rotated."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from processors.errors import ConfigurationError


class SecretBox:
    """Encrypts with the newest key and decrypts with any of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take Fernet keys, newest first; settings have checked their form."""
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def encrypt(self, secret: str) -> bytes:
        """Return the ciphertext of one secret."""
        return self._fernet.encrypt(secret.encode())

    def decrypt(self, ciphertext: bytes) -> str:
        """Return the secret.

        Raises:
            ConfigurationError: no key of `ENCRYPTION_KEYS` wrote this ciphertext.
        """
        try:
            return self._fernet.decrypt(bytes(ciphertext)).decode()
        except InvalidToken:
            message = (
                "ENCRYPTION_KEYS: none of its keys can read the stored Zoho credentials; "
                "put the key that wrote them back at the end of the list, or connect Zoho again"
            )
            raise ConfigurationError(message) from None

    def can_decrypt(self, ciphertext: bytes) -> bool:
        """Tell whether one of the keys wrote this ciphertext."""
        try:
            self._fernet.decrypt(bytes(ciphertext))
        except InvalidToken:
            return False
        return True
