"""Secrets at rest: encrypted with the newest key, readable with any."""

from __future__ import annotations

import base64

import pytest
from cryptography.fernet import Fernet

from processors.encryption import SecretBox
from processors.errors import ConfigurationError

PLACE = "zoho_connection.refresh_token"
OLD, NEW, OTHER = (base64.urlsafe_b64encode(bytes([letter]) * 32).decode() for letter in b"ONX")


@pytest.mark.parametrize("secret", ["1000.token", "", "ümläut €", "x" * 10_000])
def test_a_secret_comes_back_as_it_was(secret: str) -> None:
    box = SecretBox([NEW])
    assert box.decrypt(box.encrypt(secret, PLACE), PLACE) == secret


def test_a_ciphertext_does_not_show_its_secret_and_never_repeats() -> None:
    box = SecretBox([NEW])
    first, second = box.encrypt("1000.token", PLACE), box.encrypt("1000.token", PLACE)
    assert b"1000.token" not in first
    assert first != second


def test_the_newest_key_writes() -> None:
    written = SecretBox([NEW, OLD]).encrypt("secret", PLACE)
    assert SecretBox([NEW]).is_current(written, PLACE)
    assert not SecretBox([OLD]).can_decrypt(written, PLACE)


@pytest.mark.parametrize("keys", [[OLD], [NEW, OLD], [OTHER, NEW, OLD], [OLD, NEW]])
def test_any_known_key_reads_wherever_it_stands(keys: list[str]) -> None:
    assert SecretBox(keys).decrypt(SecretBox([OLD]).encrypt("secret", PLACE), PLACE) == "secret"


def test_postgres_may_hand_the_ciphertext_over_in_its_own_type() -> None:
    box = SecretBox([NEW])
    assert box.decrypt(memoryview(box.encrypt("secret", PLACE)), PLACE) == "secret"  # type: ignore[arg-type]


@pytest.mark.parametrize("ciphertext", [None, b"", b"not a ciphertext", b"\xff\x00"])
def test_what_no_key_can_read_names_the_setting_and_what_to_do(ciphertext: bytes | None) -> None:
    if ciphertext is None:
        ciphertext = SecretBox([OTHER]).encrypt("secret", PLACE)
    with pytest.raises(ConfigurationError, match=r"ENCRYPTION_KEYS: none of its keys .* put the key .* back") as caught:
        SecretBox([NEW, OLD]).decrypt(ciphertext, PLACE)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert NEW not in str(caught.value)


def test_a_ciphertext_that_was_tampered_with_is_not_read() -> None:
    box = SecretBox([NEW])
    written = bytearray(box.encrypt("secret", PLACE))
    written[20] ^= 1
    with pytest.raises(ConfigurationError):
        box.decrypt(bytes(written), PLACE)


def test_a_box_does_not_show_its_keys() -> None:
    box = SecretBox([NEW])
    assert NEW not in repr(box) + repr(vars(box))


def test_a_secret_is_read_only_at_the_place_that_it_was_written_for() -> None:
    box = SecretBox([NEW, OLD])
    written = box.encrypt("secret", "zoho_connection.refresh_token")
    assert box.can_decrypt(written, "zoho_connection.refresh_token")
    for place in ("zoho_connection.client_secret", "other.refresh_token", ""):
        assert not box.can_decrypt(written, place)
        with pytest.raises(ConfigurationError, match="ENCRYPTION_KEYS"):
            box.decrypt(written, place)


@pytest.mark.parametrize("key", [NEW, OLD])
def test_what_a_former_release_wrote_is_read_but_is_not_current(key: str) -> None:
    box = SecretBox([NEW, OLD])
    written = Fernet(key).encrypt(b"secret")
    assert box.decrypt(written, PLACE) == "secret"
    assert not box.is_current(written, PLACE)
