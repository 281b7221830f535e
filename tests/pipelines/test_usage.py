"""What a step takes is measured, kept, and planned with."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines.programs import run_program
from pipelines.usage import MARGIN, Meter, Usage, UsageTable, step_of

HOLD = "import time; held = bytearray({}); time.sleep(.5)"


def node(name):
    return SimpleNamespace(name=name)


def test_a_meter_sees_the_peak_and_not_only_what_is_left():
    with Meter() as empty:
        pass
    with Meter() as full:
        array = np.ones(50_000_000)  # 400 MB
        del array
    grown = full.used.memory_gb - empty.used.memory_gb
    assert 0.33 < grown < 0.5
    assert full.used.seconds > empty.used.seconds


def test_an_earlier_peak_is_not_blamed_on_a_later_step():
    with Meter() as full:
        array = np.ones(50_000_000)
        del array
    with Meter() as later:
        pass
    assert later.used.memory_gb < full.used.memory_gb - 0.3


@pytest.mark.skipif(sys.platform != "linux", reason="programs are measured on Linux only")
def test_programs_of_a_step_count_with_those_that_they_start():
    with Meter() as quiet:
        run_program([sys.executable, "-c", HOLD.format(1)])
    with Meter() as one:
        run_program([sys.executable, "-c", HOLD.format(300_000_000)])
    inner = [sys.executable, "-c", HOLD.format(200_000_000)]
    code = f"import subprocess; held = bytearray(200_000_000); subprocess.run({inner!r})"
    with Meter() as both:
        run_program([sys.executable, "-c", code])
    with Meter() as after:
        pass
    assert 0.25 < one.used.memory_gb - quiet.used.memory_gb < 0.35
    assert 0.33 < both.used.memory_gb - quiet.used.memory_gb < 0.5
    assert after.used.memory_gb < quiet.used.memory_gb


def test_a_process_without_programs_is_not_looked_through(monkeypatch):
    """A look at all processes of a large machine, ten times a second, is not for nothing."""
    monkeypatch.setattr("pipelines.usage._has_children", lambda: False)
    monkeypatch.setattr("pipelines.usage.descendants", lambda _: 1 / 0)
    with Meter() as meter:
        run_program([sys.executable, "-c", HOLD.format(300_000_000)])
    assert meter.used.memory_gb > 0


@pytest.mark.parametrize(
    ("name", "step"),
    [("brain_mask", "brain_mask"), ("_train3", "train"), ("_explain12", "explain")],
)
def test_folds_are_one_step(name, step):
    assert step_of(node(name)) == step


def test_the_largest_counts_and_is_kept(tmp_path):
    table = UsageTable(tmp_path / "usage.tsv")
    assert table.expected_gb(node("train")) is None
    table.add(node("_train0"), Usage(2.0, 10))
    table.add(node("_train1"), Usage(3.0, 5))
    table.add(node("train"), Usage(0.3, 0.1))  # the MapNode itself gathers only
    assert table.expected_gb(node("_train2")) == pytest.approx(3 * MARGIN)
    table.write()
    later = UsageTable(tmp_path / "usage.tsv")
    assert later.expected_gb(node("train")) == pytest.approx(3 * MARGIN)
    assert later.before["train"] == {"memory_gb": 3.0, "seconds": 10.0, "runs": 3}


def test_what_ran_again_replaces_what_was_known(tmp_path):
    first = UsageTable(tmp_path / "usage.tsv")
    first.add(node("register"), Usage(4.0, 100))
    first.add(node("mask"), Usage(1.0, 3))
    first.write()
    second = UsageTable(tmp_path / "usage.tsv")
    second.add(node("register"), Usage(1.0, 10))  # at a coarser resolution
    second.write()
    third = UsageTable(tmp_path / "usage.tsv")
    assert third.expected_gb(node("register")) == pytest.approx(MARGIN)
    assert third.expected_gb(node("mask")) == pytest.approx(MARGIN)


def test_runs_side_by_side_keep_what_the_other_measured(tmp_path):
    ours, theirs = (UsageTable(tmp_path / "usage.tsv") for _ in range(2))
    ours.add(node("register"), Usage(4.0, 100))
    theirs.add(node("train"), Usage(2.0, 10))
    ours.write()
    theirs.write()
    assert set(UsageTable(tmp_path / "usage.tsv").before) == {"register", "train"}


def test_it_says_when_the_plan_changes(tmp_path):
    table = UsageTable(tmp_path / "usage.tsv")
    assert table.add(node("mask"), Usage(2.0, 1))
    assert not table.add(node("mask"), Usage(1.0, 1))
    assert table.add(node("mask"), Usage(3.0, 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step\tmemory_gb\nmask\t1\n",
        "nonsense",
        "step\tmemory_gb\tseconds\truns\nmask\tmuch\t1\t1\n",
        "step\tmemory_gb\tseconds\truns\nmask\tn/a\t1\t1\n",
        "step\tmemory_gb\tseconds\truns\nmask\t2\t1\tn/a\n",
        "step\tmemory_gb\tseconds\truns\nmask\t2\t1\t1\nmask\t1\t1\t1\n",
    ],
)
def test_a_broken_table_is_no_reason_not_to_run(tmp_path, text):
    file = tmp_path / "usage.tsv"
    file.write_text(text)
    assert UsageTable(file).expected_gb(node("mask")) is None
