"""The client gives up soon, and is as strict about certificates as it was told to be."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from processors.messaging.redis import connect
from processors.runtime.local import LocalRedis


@pytest.mark.parametrize("verify_tls", [True, False])
def test_a_plain_url_works_whatever_is_said_about_certificates(server: LocalRedis, verify_tls: bool) -> None:
    with connect(server.url, verify_tls=verify_tls) as client:
        assert client.ping()


def test_a_self_signed_certificate_is_accepted_without_verification(self_signed_port: int) -> None:
    with connect(f"rediss://127.0.0.1:{self_signed_port}/0", verify_tls=False) as client:
        assert client.ping()


def test_a_self_signed_certificate_is_refused_with_verification(self_signed_port: int) -> None:
    with (
        connect(f"rediss://127.0.0.1:{self_signed_port}/0", verify_tls=True) as client,
        pytest.raises(redis.ConnectionError, match="certificate verify failed"),
    ):
        client.ping()


def test_a_hung_redis_costs_one_time_out(server: LocalRedis) -> None:
    with connect(server.url, verify_tls=True) as client:
        client.ping()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(redis.TimeoutError):
                client.ping()
            assert time.monotonic() - began < 3.5
        finally:
            os.kill(server.pid, signal.SIGCONT)


def test_a_connection_that_was_closed_meanwhile_is_replaced(server: LocalRedis) -> None:
    with connect(server.url, verify_tls=True) as client, connect(server.url, verify_tls=True) as other:
        closed = client.client_id()
        assert other.client_kill_filter(_id=str(closed)) == 1
        assert client.client_id() != closed


@pytest.fixture
def self_signed_port(server: LocalRedis, tmp_path: Path) -> Iterator[int]:
    """A port where TLS is spoken under a certificate nobody vouches for, with our Redis behind it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_self_signed(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_forward_all, args=(listener, context, server.port), daemon=True).start()
        port: int = listener.getsockname()[1]
        yield port
        listener.shutdown(socket.SHUT_RDWR)


def _self_signed(directory: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = directory / "self-signed.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return pem


def _forward_all(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:  # the test is over
            return
        try:
            client = context.wrap_socket(plain, server_side=True)
        except OSError:  # the client did not like the certificate
            plain.close()
            continue
        upstream = socket.create_connection(("127.0.0.1", port))
        for source, sink in ((client, upstream), (upstream, client)):
            threading.Thread(target=_forward, args=(source, sink), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with source, sink:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:  # one of the two hung up
            return
