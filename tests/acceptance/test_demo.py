"""`python -m processors demo`, as a person starts and stops it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import uuid

import httpx
import pytest

from processors.runtime import procfile
from processors.runtime.local import free_port
from tests.acceptance.installation import processes_marked, wait_for


class Demo:
    def __init__(self, port: int) -> None:
        self.mark = f"demo-{uuid.uuid4()}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "processors", "demo", "--items", "60"],
            env=procfile.environment(PORT=str(port), MARK=self.mark),
            cwd=procfile.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def _shows(self, pattern: str) -> bool:
        assert self.process.poll() is None, "".join(self.lines)
        return any(re.search(pattern, line) for line in self.lines)

    def wait_to_show(self, pattern: str) -> None:
        wait_for(lambda: self._shows(pattern), f"{pattern!r} in the demo's output", seconds=60)

    def end(self, by: signal.Signals) -> str:
        self.process.send_signal(by)
        self.process.wait(40)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return "".join(self.lines)


def signs_in(demo: Demo) -> bool:
    """Tell whether the printed name and password open the printed console."""
    (line,) = [line for line in demo.lines if "/console" in line]
    found = re.search(r"(http\S+)  \(sign in as (\S+), password (\S+)\)", line)
    assert found, line
    url, name, password = found.groups()
    with httpx.Client(timeout=10) as client:
        csrf = re.search(r'name="csrftoken" value="([^"]+)"', client.get(f"{url}/login").text)
        assert csrf
        form = {"csrftoken": csrf[1], "username": name, "password": password}
        answer = client.post(f"{url}/login", data=form)
    return answer.status_code == httpx.codes.SEE_OTHER and "HttpOnly" in answer.headers["set-cookie"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_demo_shows_products_appearing_leaves_nothing_behind_and_starts_again_on_the_same_port() -> None:
    port = free_port()
    # Ctrl-C, and a terminal that is closed.
    for ending in (signal.SIGINT, signal.SIGHUP):
        demo = Demo(port)
        demo.wait_to_show(rf"http://127.0.0.1:{port}/health/ready")
        demo.wait_to_show(r"created .* ms .* price [\d.]+")
        demo.wait_to_show(r"\d+ products \(Zoho has \d+\)")
        assert signs_in(demo)
        text = demo.end(ending)
        assert demo.process.returncode == 0, text
        assert "Everything is stopped" in text
        assert processes_marked(demo.mark) == []


def test_a_taken_port_is_said_before_anything_is_started() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "processors", "demo"],
            env=procfile.environment(PORT=str(port)),
            cwd=procfile.ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"port {port} cannot be used")
    assert "Traceback" not in done.stderr
