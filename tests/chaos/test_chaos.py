"""The fault suite in its quick form; and that it notices a build that loses deliveries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from processors.runtime import procfile
from tests.acceptance.installation import processes_marked
from tests.chaos.audit import repeats
from tests.chaos.faults import FAULTS
from tests.chaos.stream import Version, plan

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds Postgres's processes in /proc")


def chaos(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run the suite's program; its exit code, what it found, and what it printed."""
    found, mark = tmp_path / "found.json", f"chaos-{uuid.uuid4()}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--quick", "--json", str(found), *arguments],
        cwd=procfile.ROOT,
        env={**os.environ, "MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=220,
        check=False,
    )
    assert processes_marked(mark) == [], "it ends what it started"
    assert found.exists(), done.stdout
    return done.returncode, json.loads(found.read_text("utf-8")), done.stdout


@pytest.mark.timeout(240)
def test_nothing_acknowledged_is_lost_doubled_or_wrong_whatever_befalls_the_parts(tmp_path: Path) -> None:
    code, found, printed = chaos(tmp_path)
    counts = found["audit"]
    assert (counts["lost"], counts["duplicated"], counts["differing"]) == (0, 0, 0), printed
    assert found["violations"] == [], printed
    assert code == 0
    assert counts["sent"] == counts["acknowledged"] == counts["applied"] == 600
    # It was no calm sea.
    assert found["not_hit"] == []
    assert found["late_writes"] > 0
    assert set(found["exits"]) == {"web", "worker", "clock"}
    assert found["happened"] == {fault.name: 1 for fault in FAULTS} | {"all at once": 1}


@pytest.mark.timeout(120)
def test_a_web_process_that_acknowledges_before_it_commits_is_caught(tmp_path: Path) -> None:
    code, found, printed = chaos(
        tmp_path, "--broken", "acknowledges-first", "--only", "Postgres stopped for seconds", "--only", "web killed"
    )
    assert code == 1, printed
    assert found["audit"]["lost"] > 0
    assert "its event is absent" in printed


@pytest.mark.timeout(120)
def test_the_absence_of_every_relay_is_caught(tmp_path: Path) -> None:
    # Longer than a healthy build needs: a lease of 5 s, and the 2 s between two looks of a clock's relay.
    patience = ["--patience", "16"]
    faults = ["--only", "worker killed after the claim", "--only", "Redis flushed"]
    code, found, printed = chaos(tmp_path, "--broken", "no-relay", *faults, *patience)
    assert code == 1, printed
    assert found["audit"]["lost"] > 0
    assert "its event is processing" in printed


def test_a_plan_has_every_item_each_version_once_or_more_and_the_promised_copies() -> None:
    order = plan(Random(3), items=50, deliveries=500)
    newest = {item: max(version.number for version in order if version.item == item) for item in range(50)}
    assert len(order) == 500
    assert set(order) == {Version(item, number) for item in range(50) for number in range(1, newest[item] + 1)}
    assert len(set(order)) == 400


def change(old: str | None, new: str) -> dict[str, list[Any]]:
    return {"price": [old, new], "name": [old and f"Mug for {old}", f"Mug for {new}"]}


@pytest.mark.parametrize(
    ("history", "wrongs"),
    [
        ([change(None, "1"), change("1", "2")], 0),
        # Applied twice: the second time from the same old value, or as a creation.
        ([change(None, "1"), change("1", "2"), change("1", "2")], 3),
        ([change(None, "1"), change(None, "2")], 2),
        # The row is not where its history leads.
        ([change(None, "1")], 2),
    ],
)
def test_a_history_is_wrong_where_it_repeats_a_change_or_does_not_lead_from_one_to_the_next(
    history: list[dict[str, list[Any]]], wrongs: int
) -> None:
    row = {"price": Decimal("2.0"), "name": "Mug for 2", "zoho_last_modified_at": None}
    assert len(repeats(history, row)) == wrongs
