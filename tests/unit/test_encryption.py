"""Secrets at rest: encrypted with the newest key, readable with any."""

from __future__ import annotations

import base64

import pytest
from cryptography.fernet import Fernet

from processors.encryption import SecretBox
from processors.errors import ConfigurationError

OLD, NEW, OTHER = (base64.urlsafe_b64encode(bytes([letter]) * 32).decode() for letter in b"ONX")


@pytest.mark.parametrize("secret", ["1000.token", "", "ümläut €", "x" * 10_000])
def test_a_secret_comes_back_as_it_was(secret: str) -> None:
    box = SecretBox([NEW])
    assert box.decrypt(box.encrypt(secret)) == secret


def test_a_ciphertext_does_not_show_its_secret_and_never_repeats() -> None:
    box = SecretBox([NEW])
    first, second = box.encrypt("1000.token"), box.encrypt("1000.token")
    assert b"1000.token" not in first
    assert first != second


def test_the_newest_key_writes() -> None:
    written = SecretBox([NEW, OLD]).encrypt("secret")
    assert Fernet(NEW).decrypt(written) == b"secret"


@pytest.mark.parametrize("keys", [[OLD], [NEW, OLD], [OTHER, NEW, OLD], [OLD, NEW]])
def test_any_known_key_reads_wherever_it_stands(keys: list[str]) -> None:
    assert SecretBox(keys).decrypt(SecretBox([OLD]).encrypt("secret")) == "secret"


def test_postgres_may_hand_the_ciphertext_over_in_its_own_type() -> None:
    box = SecretBox([NEW])
    assert box.decrypt(memoryview(box.encrypt("secret"))) == "secret"  # type: ignore[arg-type]


@pytest.mark.parametrize("ciphertext", [None, b"", b"not a ciphertext", b"\xff\x00"])
def test_what_no_key_can_read_names_the_setting_and_what_to_do(ciphertext: bytes | None) -> None:
    if ciphertext is None:
        ciphertext = SecretBox([OTHER]).encrypt("secret")
    with pytest.raises(ConfigurationError, match=r"ENCRYPTION_KEYS: none of its keys .* put the key .* back") as caught:
        SecretBox([NEW, OLD]).decrypt(ciphertext)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert NEW not in str(caught.value)


def test_a_ciphertext_that_was_tampered_with_is_not_read() -> None:
    box = SecretBox([NEW])
    written = bytearray(box.encrypt("secret"))
    written[20] ^= 1
    with pytest.raises(ConfigurationError):
        box.decrypt(bytes(written))


def test_a_box_does_not_show_its_keys() -> None:
    box = SecretBox([NEW])
    assert NEW not in repr(box) + repr(vars(box))
