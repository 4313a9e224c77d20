"""What `make bench` measured goes into docs/performance.md between markers, and nowhere else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from processors.runtime import procfile
from tests.benchmarks import documents, report
from tests.benchmarks.documents import NothingWritten
from tests.benchmarks.report import Subject

MACHINE = {
    "measured_at": "2026-11-25T21:00:00+00:00",
    "cores": 2,
    "cpu": "a processor",
    "memory_gib": 16.0,
    "python": "3.11.7",
    "postgres": "18.6",
    "redis": "valkey 9.1.2",
}
PAGE = """# Performance
above
<!-- measured: tables -->
old
<!-- end of tables -->
between
<!-- measured: growth -->
<!-- end of growth -->
below
"""


def accepts() -> dict[str, Any]:
    subject = Subject("Accepts", ("per second", "/ floor"), ("A note.",))
    subject.add("zoho-mirror", report.over_rounds([5_000.0, 5_100.0, 5_200.0]), report.over_rounds([0.25]))
    return MACHINE | {"rounds": 3, "subjects": [report.as_json(subject)]}


def soak() -> dict[str, Any]:
    subject = Subject("By size", ("µs/item", "CPU µs/item", "MB"))
    for factor, size in enumerate(("1,000", "100,000"), 1):
        for kind in ("first load", "nothing changed", "1 % changed"):
            subject.add(f"{kind}, {size}", *(report.over_rounds([each * factor]) for each in (100.0, 50.0, 80.0)))
    return MACHINE | {"rounds": {"1000": 5, "100000": 3}, "subjects": [report.as_json(subject)]}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "performance.md"
    path.write_text(PAGE, "utf-8")
    return path


def test_the_tables_take_the_place_of_the_old_ones_and_the_rest_is_left_alone(page: Path) -> None:
    page.with_name("latest.json").write_text(json.dumps(accepts()), "utf-8")
    documents.write(page, page.parent)
    text = page.read_text("utf-8")
    assert "old" not in text
    assert re.search(r"zoho-mirror +5,100 +0\.25\n +5,000–5,200\n\n  A note\.\n```", text)
    assert text.startswith("# Performance\nabove\n")
    assert text.endswith("between\n<!-- measured: growth -->\n<!-- end of growth -->\nbelow\n")


def test_written_again_the_page_stays_as_it_is(page: Path) -> None:
    page.with_name("latest.json").write_text(json.dumps(accepts()), "utf-8")
    page.with_name("soak.json").write_text(json.dumps(soak()), "utf-8")
    documents.write(page, page.parent)
    once = page.read_text("utf-8")
    documents.write(page, page.parent)
    assert page.read_text("utf-8") == once


def test_each_chart_has_a_line_for_each_kind_of_run_with_a_point_for_each_size() -> None:
    blocks = re.findall(r"```mermaid\n(.*?)```", documents.growth(soak()), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert '["1,000", "100,000"]' in block
        assert len(re.findall(r"line \[[\d.]+, [\d.]+\]", block)) == 3
    assert "line [80.0, 160.0]" in blocks[2]


@pytest.mark.parametrize(
    "text",
    [
        "no marker",
        "<!-- measured: tables -->",
        "<!-- end of tables --><!-- measured: tables -->",
        "<!-- measured: tables --><!-- end of tables --><!-- measured: tables --><!-- end of tables -->",
    ],
)
def test_a_page_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(NothingWritten, match="once each"):
        documents.between_markers(text, "tables", "new")


def test_where_nothing_was_measured_the_page_is_left_alone(page: Path) -> None:
    with pytest.raises(NothingWritten, match="make bench"):
        documents.write(page, page.parent)
    assert page.read_text("utf-8") == PAGE


def test_the_performance_page_has_room_for_both_parts() -> None:
    text = (procfile.ROOT / "docs" / "performance.md").read_text("utf-8")
    for part in ("tables", "growth"):
        text = documents.between_markers(text, part, "new")
