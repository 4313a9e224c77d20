"""Keys are rotated while everything runs: what older keys wrote is read, written anew, and never lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest
from cryptography.fernet import Fernet

from processors.encryption import SecretBox
from processors.errors import ConfigurationError
from processors.runtime import procfile
from processors.settings import Settings
from processors.store import zoho_connection
from processors.store.audit import Requester
from processors.store.database import Connection, Pool
from processors.workflows import keys
from processors.zoho import token_endpoint

ADA = Requester("cli", "ada")
OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


def settings(*encryption_keys: str) -> Settings:
    return Settings.load(environ={"ENCRYPTION_KEYS": ",".join(encryption_keys)})


def keep(connection: Connection, key: str = OLD) -> None:
    box = SecretBox([key])
    connection.execute(
        "UPDATE zoho_connection SET refresh_token = %s, access_token = %s, client_secret = %s",
        [box.encrypt(secret, zoho_connection.place_of(name)) for name, secret in ALL.items()],
    )


def stored(connection: Connection, key: str) -> dict[str, str]:
    found = zoho_connection.ciphertexts(zoho_connection.read(connection))
    return {
        name: SecretBox([key]).decrypt(ciphertext, zoho_connection.place_of(name)) for name, ciphertext in found.items()
    }


ALL = {"refresh_token": "refresh", "access_token": "access", "client_secret": "secret"}


def test_all_that_is_stored_is_encrypted_with_the_newest_key(pool: Pool, connection: Connection) -> None:
    keep(connection)
    assert keys.rotate(pool, settings(NEW, OLD), ADA).encrypted_anew == sorted(ALL)
    assert stored(connection, NEW) == ALL
    assert keys.rotate(pool, settings(NEW, OLD), ADA).encrypted_anew == []
    assert keys.rotate(pool, settings(NEW), ADA).was_newest == [*ALL]
    noted = connection.execute("SELECT detail FROM audit_log WHERE action = 'keys.rotated' ORDER BY id").fetchall()
    assert noted[0]["detail"] == {"encrypted_anew": sorted(ALL)}


def test_what_no_key_reads_is_told_and_nothing_is_changed(pool: Pool, connection: Connection) -> None:
    keep(connection)
    connection.execute(
        "UPDATE zoho_connection SET access_token = %s",
        (SecretBox([NEW]).encrypt("access", zoho_connection.place_of("access_token")),),
    )
    with pytest.raises(ConfigurationError, match="put the key that wrote them back"):
        keys.rotate(pool, settings(NEW), ADA)
    ciphertext = zoho_connection.ciphertexts(zoho_connection.read(connection))["client_secret"]
    assert SecretBox([OLD]).decrypt(ciphertext, zoho_connection.place_of("client_secret"))


def test_a_token_that_is_refreshed_meanwhile_is_not_overwritten(pool: Pool, connection: Connection) -> None:
    keep(connection)
    box = SecretBox([NEW, OLD])
    with connection.transaction():
        zoho_connection.lock(connection)
        thread = threading.Thread(target=keys.rotate, args=(pool, settings(NEW, OLD), ADA))
        thread.start()
        connection.execute(
            "UPDATE zoho_connection SET access_token = %s",
            (box.encrypt("a newer one", zoho_connection.place_of("access_token")),),
        )
    thread.join(20)
    assert stored(connection, NEW) == {**ALL, "access_token": "a newer one"}


def test_where_nothing_is_stored_nothing_is_to_be_done(pool: Pool) -> None:
    assert keys.rotate(pool, settings(NEW), ADA) == keys.Rotated([], [])
    with pytest.raises(ConfigurationError, match="ENCRYPTION_KEYS is not set"):
        keys.rotate(pool, Settings.load(environ={}), ADA)


def test_the_commands(connection: Connection, database_url: str) -> None:
    keep(connection)

    def run(*arguments: str) -> str:
        environ = procfile.environment(DATABASE_URL=database_url, ENCRYPTION_KEYS=f"{NEW},{OLD}")
        command = [sys.executable, "-m", "processors", "keys", *arguments]
        return subprocess.run(
            command, env=environ, cwd=procfile.ROOT, capture_output=True, text=True, timeout=30, check=True
        ).stdout

    Fernet(run("generate").strip())
    assert json.loads(run("rotate", "--json"))["encrypted_anew"] == sorted(ALL)
    assert "already" in run("rotate")


def test_what_a_former_release_wrote_is_bound_to_its_column_by_a_rotation(pool: Pool, connection: Connection) -> None:
    connection.execute(
        "UPDATE zoho_connection SET refresh_token = %s, access_token = %s, client_secret = %s",
        [Fernet(OLD).encrypt(secret.encode()) for secret in ALL.values()],
    )
    assert stored(connection, OLD) == ALL
    assert keys.rotate(pool, settings(OLD), ADA).encrypted_anew == sorted(ALL)
    found = zoho_connection.ciphertexts(zoho_connection.read(connection))
    box = SecretBox([OLD])
    readable = {
        (name, place) for name in found for place in found if box.can_decrypt(found[name], f"zoho_connection.{place}")
    }
    assert readable == {(name, name) for name in ALL}


def test_a_ciphertext_that_was_moved_to_another_column_is_not_used(connection: Connection) -> None:
    """Else a writer of the database has the refresh token sent as the client's secret."""
    keep(connection)
    connection.execute("UPDATE zoho_connection SET client_secret = refresh_token, client_id = '1000.C'")
    box = SecretBox([OLD])
    with pytest.raises(ConfigurationError, match=r"zoho_connection\.client_secret"):
        token_endpoint.client(settings(OLD), zoho_connection.read(connection), box)
