"""Redis over TLS with a certificate that it signed itself, as on Heroku: taken when told so, and refused otherwise."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from processors.messaging.broker import broker_for
from processors.messaging.messages import EVENTS_QUEUE, Publisher
from processors.messaging.redis import connect
from processors.runtime.local import LocalRedis
from processors.settings import Settings
from processors.workflows import checking


def certificate(directory: Path) -> tuple[Path, Path]:
    """Make a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = directory / "certificate.pem", directory / "key.pem"
    certificate_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    key_path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return certificate_path, key_path


@pytest.fixture
def tls_url(tmp_path: Path, redis_server: LocalRedis) -> Iterator[str]:
    """The test's Redis, behind a door that speaks TLS: the embedded one does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(tmp_path))
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve(raw: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            raw,
            context.wrap_socket(raw, server_side=True) as visitor,
            socket.create_connection(("127.0.0.1", redis_server.port)) as inner,
        ):
            threading.Thread(target=carry, args=(inner, visitor), daemon=True).start()
            carry(visitor, inner)

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = listener.accept()
                threading.Thread(target=serve, args=(raw,), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    yield f"rediss://127.0.0.1:{listener.getsockname()[1]}/0"
    listener.close()


def settings(url: str, verify: str) -> Settings:
    return Settings.load(environ={"REDIS_URL": url, "REDIS_TLS_VERIFY": verify})


def test_a_certificate_of_its_own_is_taken_where_that_is_allowed(tls_url: str, redis_server: LocalRedis) -> None:
    broker = broker_for(settings(tls_url, "false"))
    publisher = Publisher(broker)
    before = publisher.queue_sizes()[EVENTS_QUEUE]
    publisher.publish_events([1, 2])
    assert publisher.queue_sizes()[EVENTS_QUEUE] == before + 1
    broker.close()
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()


def test_it_is_refused_otherwise_and_the_doctor_says_why(tls_url: str) -> None:
    with connect(tls_url, verify_tls=True) as client, pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY"):
        client.ping()
    (refused,) = checking._check_redis(settings(tls_url, "true"))
    assert (refused.mark, "REDIS_TLS_VERIFY=false" in refused.do) == ("problem", True)
    (taken,) = checking._check_redis(settings(tls_url, "false"))
    assert (taken.mark, "over TLS" in taken.what) == ("ok", True)
