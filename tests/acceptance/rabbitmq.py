"""A RabbitMQ of the test's own, where Debian's package is installed; data, log and cookie in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pika

from processors.runtime.local import free_port
from tests.acceptance.installation import wait_for

# The one that Debian wraps would change its user.
SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_START_SECONDS = 60


class RabbitMQ:
    """Starts, kills and restarts it on one port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self._distribution_port, self._epmd_port = (free_port() for _ in range(3))
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    def start(self) -> None:
        """Return once it answers."""
        self._directory.mkdir(exist_ok=True)
        (self._directory / "enabled_plugins").write_text("[].\n")
        bare = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
        own = {
            "HOME": self._directory,
            "RABBITMQ_NODENAME": f"zoho-mirror-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self._distribution_port,
            "ERL_EPMD_PORT": self._epmd_port,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": self._directory / "data",
            "RABBITMQ_LOG_BASE": self._directory / "log",
            "RABBITMQ_PID_FILE": self._directory / "pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self._directory / "enabled_plugins",
            "RABBITMQ_CONFIG_FILE": self._directory / "none",
            # It would change the limits of the whole machine.
            "RABBITMQ_SERVER_START_ARGS": "",
        }
        with (self._directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [SERVER], env=bare | {name: str(value) for name, value in own.items()}, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        wait_for(self._answers, "RabbitMQ to answer", seconds=_START_SECONDS)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"RabbitMQ ended:\n{(self._directory / 'output').read_text()[-2000:]}"
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True

    def kill(self) -> None:
        """End it, and what it started, at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None
