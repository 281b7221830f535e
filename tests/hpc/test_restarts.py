"""Killed at any moment, moved, or run from several processes at once: nothing is lost or twice."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import describe, save_scan

from pipelines.derivatives import read_table

pytestmark = pytest.mark.slow

PEOPLE = ("01", "02", "03", "04", "05", "06")
KILLS = 10


@pytest.fixture(scope="module")
def raw(tmp_path_factory, brain):
    """Six people, two groups."""
    folder = tmp_path_factory.mktemp("raw")
    for number, who in enumerate(PEOPLE):
        save_scan(folder, who, brain(number, side="LR"[number % 2]))
    return describe(
        folder,
        {who: {"diagnosis": ("AD", "CN")[i % 2], "age": 60 + i} for i, who in enumerate(PEOPLE)},
    )


@pytest.fixture(scope="module")
def start(raw, recipe):
    """Start the app in a process group of its own."""

    def call(out, *arguments, log=subprocess.DEVNULL):
        command = [sys.executable, "-m", "bidsapp.cli", raw, out, *arguments, "--recipe", recipe]
        return subprocess.Popen(
            [str(part) for part in (*command, "--nprocs", 2)],
            start_new_session=True,
            stderr=log,
            stdout=log,
        )

    return call


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """A run that nobody disturbed, and its seconds."""
    out, began = tmp_path_factory.mktemp("whole"), time.monotonic()
    assert start(out, "participant", "group").wait() == 0
    return out, time.monotonic() - began


def results(out):
    """When each node was last done; not of sinks, which look each time whether all is there."""
    return {
        path.relative_to(out): path.stat().st_mtime_ns
        for path in (out / ".work").rglob("result_*.pklz")
        if not path.parent.name.startswith("save")
    }


def numbers(out):
    """Every image and every table among the derivatives."""
    found = {}
    for path in sorted(out.rglob("*")):
        if ".work" in path.parts or not path.is_file():
            continue
        if path.name.endswith(".nii.gz"):
            found[path.relative_to(out)] = np.asarray(nib.load(path).dataobj)
        elif path.suffix == ".tsv":
            table = read_table(path)
            found[path.relative_to(out)] = table.loc[:, ~table.columns.str.contains("second")]
    return found


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path, values in ours.items():
        if isinstance(values, np.ndarray):
            np.testing.assert_array_equal(values, theirs[path], err_msg=str(path))
        else:
            assert values.equals(theirs[path]), path


def workers_of(group):
    """Processes of a process group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_killed_ten_times_it_ends_with_the_same_numbers(start, whole, tmp_path):
    undisturbed, seconds = whole
    out, draws = tmp_path / "out", random.Random(0)
    before, number = {}, 0
    for number in range(KILLS):
        run = start(out, "participant", "group")
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(draws.uniform(0.1, 0.9) * seconds / 2)
            break  # done already: the machine is faster now than when it was timed
        if number % 2:
            os.kill(
                run.pid, signal.SIGKILL
            )  # the first process alone: its workers must not live on
        else:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        until = time.monotonic() + 30
        while workers_of(run.pid):
            assert time.monotonic() < until, "workers outlive their run"
            time.sleep(0.1)
        now = results(out) if out.exists() else {}
        again = [path for path in before if now.get(path) != before[path]]
        assert not again, f"done twice: {again}"
        before = now
    assert number > KILLS // 2
    with (tmp_path / "log").open("w") as log:
        assert start(out, "participant", "group", log=log).wait() == 0, log.name
    after = results(out)
    assert {path: after.get(path) for path in before} == before
    assert_same(numbers(out), numbers(undisturbed))
    left = [
        path
        for path in out.rglob("*")
        if path.name.startswith(".") and path.name not in (".work", ".bidsignore")
    ]
    assert not [path for path in left if ".work" not in path.parts], "half-written files"


def test_moved_folders_go_on_where_they_were(start, whole, tmp_path):
    """Nobody is preprocessed and nothing is trained again; what names its images is redone."""

    def preprocessed(work):
        found = work.rglob("participant/**/result_*.pklz")
        return {path: path.stat().st_mtime_ns for path in found if "/save" not in str(path)}

    out, moved, work = tmp_path / "out", tmp_path / "elsewhere/derivatives", tmp_path / "work"
    shutil.copytree(whole[0], out, symlinks=True)
    moved.parent.mkdir()
    shutil.move(out / ".work", work)
    shutil.move(out, moved)
    before = preprocessed(work)
    assert len(list(work.rglob("checkpoint-*.pt"))) == 2, "a training leaves one"
    images = {path: path.stat().st_mtime_ns for path in moved.rglob("sub-*desc-preproc*.nii.gz")}
    with (tmp_path / "log").open("w") as log:
        run = start(moved, "participant", "group", "--work-dir", work, log=log)
        assert run.wait() == 0, log.name
    assert "6 of 6 scans are already preprocessed" in (tmp_path / "log").read_text()
    assert preprocessed(work) == before
    assert not list(work.rglob("checkpoint-*.pt")), "trained again"
    assert {path: path.stat().st_mtime_ns for path in images} == images
    ours, theirs = numbers(moved), numbers(whole[0])
    assert_same({path: ours[path] for path in theirs}, theirs)


def test_low_memory_is_slower_and_gives_the_same_numbers(start, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out, ignore=shutil.ignore_patterns(".work", "models", "group*"))
    with (tmp_path / "log").open("w") as log:
        assert start(out, "group", "--low-mem", log=log).wait() == 0, log.name
    assert_same(numbers(out), numbers(whole[0]))


def test_people_at_once_from_processes_of_their_own(start, whole, tmp_path):
    out = tmp_path / "out"
    runs = [start(out, "participant", "--participant-label", who) for who in PEOPLE]
    assert [run.wait() for run in runs] == [0] * len(PEOPLE)
    json.loads((out / "dataset_description.json").read_text())
    ours, theirs = numbers(out), numbers(whole[0])
    assert_same(ours, {path: theirs[path] for path in ours})
    for who in PEOPLE:
        assert any(path.parts[0] == f"sub-{who}" for path in ours)


def test_the_same_person_twice_at_once_is_done_once(start, tmp_path):
    out, logs = tmp_path / "out", [tmp_path / name for name in ("first", "second")]
    runs = []
    for log in logs:
        with log.open("w") as stream:
            runs.append(start(out, "participant", "--participant-label", "01", log=stream))
    assert [run.wait() for run in runs] == [0, 0]
    said = sorted((log.read_text() for log in logs), key=lambda text: "waiting" in text)
    assert "sub-01 is being processed by another run: waiting for it" in said[1]
    assert "1 of 1 scans are already preprocessed" in said[1]


def test_a_polite_stop_is_heard_and_told(start, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    with log.open("w") as stream:
        run = start(out, "participant", log=stream)
    while "preprocess:" not in log.read_text():
        assert run.poll() is None, log.read_text()
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    assert run.wait(10) == 128 + signal.SIGTERM
    assert "the same command goes on from there" in log.read_text()
