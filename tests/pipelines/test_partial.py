"""A file appears whole or not at all; what killed processes left of one is found and removed."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import partial
from pipelines.derivatives import remove_half_written, write_dataset
from pipelines.partial import appearing, keep, remove_leftovers

ROOT = Path(__file__).parents[2]

# Writes half a file, says so, and waits to be killed.
HALF = """
import sys, time
from pathlib import Path
from pipelines.partial import appearing
with appearing(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("half", flush=True)
    time.sleep(60)
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def parts(folder):
    return [path for path in folder.rglob(".*.part") if path.is_file()]


def test_what_appears_is_whole(tmp_path):
    target = tmp_path / "sub-01/anat/x"
    with appearing(target) as stream:
        stream.write(b"voxels")
        assert not target.exists()
    assert target.read_bytes() == b"voxels"
    assert parts(tmp_path) == []


def test_after_an_exception_there_is_what_was_there_and_no_part(tmp_path):
    target = tmp_path / "x"
    target.write_bytes(b"old")
    with pytest.raises(TypeError), appearing(target) as stream:
        stream.write("text where bytes are wanted")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert target.read_bytes() == b"old"


def test_parts_of_the_living_stay_and_those_of_the_killed_go(tmp_path):
    target = tmp_path / "sub-01/anat/x.nii.gz"
    writer = start(HALF, target)
    assert writer.stdout.readline() == "half\n"
    assert len(parts(tmp_path)) == 1
    assert remove_half_written(tmp_path, ["01"]) == 0
    assert remove_half_written(tmp_path) == 0
    assert len(parts(tmp_path)) == 1
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(parts(tmp_path)) == 1
    assert remove_half_written(tmp_path, ["02"]) == 0  # somebody else's folder
    assert remove_half_written(tmp_path, ["01"]) == 1
    assert parts(tmp_path) == []
    assert not target.exists()


@pytest.mark.parametrize(
    ("place", "level"),
    [
        ("sub-01/ses-a/anat", "participant"),
        ("", "participant"),
        ("logs", "participant"),
        ("sub-01/anat", "group"),
        ("group/figures", "group"),
        ("models/model-x", "group"),
        ("logs", "group"),
    ],
)
def test_each_level_looks_where_it_writes(tmp_path, place, level):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / ".x.json.0123abcd.part").write_text("ha")
    (tmp_path / place / "x.json").write_text("whole")
    (tmp_path / ".work/sub-01").mkdir(parents=True)
    (tmp_path / ".work/sub-01/.y.0123abcd.part").write_text("a step's own")
    assert remove_half_written(tmp_path, ["01"] if level == "participant" else None) == 1
    assert [path.name for path in parts(tmp_path)] == [".y.0123abcd.part"]
    assert (tmp_path / place / "x.json").exists()


def test_nobody_loses_a_file_to_those_who_clean(tmp_path):
    """Writers and cleaners at full speed: between making a part and locking it lies a moment."""
    writer = (
        "import sys\nfrom pathlib import Path\nfrom pipelines.derivatives import write_text\n"
        "for number in range(1500):\n"
        "    write_text(Path(sys.argv[1]) / f'{sys.argv[2]}-{number % 7}', str(number) * 50)\n"
    )
    cleaner = (
        "import sys, time\nfrom pathlib import Path\nfrom pipelines.partial import *\n"
        "until = time.monotonic() + 60\n"
        "while not (Path(sys.argv[1]) / 'enough').exists() and time.monotonic() < until:\n"
        "    remove_leftovers(Path(sys.argv[1]).glob('.*.part'))\n"
    )
    cleaners = [start(cleaner, tmp_path) for _ in range(2)]
    writers = [start(writer, tmp_path, name) for name in "ab"]
    assert [one.wait() for one in writers] == [0, 0]
    (tmp_path / "enough").touch()
    assert [one.wait() for one in cleaners] == [0, 0]
    assert parts(tmp_path) == []
    for name in "ab":
        for last in range(1493, 1500):
            assert (tmp_path / f"{name}-{last % 7}").read_text() == str(last) * 50


@pytest.mark.parametrize("when", ["before the lock", "while it is locked by the cleaner"])
def test_a_part_taken_for_a_leftover_is_begun_again(tmp_path, monkeypatch, when):
    lock, seen = partial._lock, []

    def interrupted(stream):
        seen.append(stream.name)
        if len(seen) == 1:
            if when == "before the lock":
                os.unlink(stream.name)
            else:
                raise BlockingIOError
        lock(stream)

    monkeypatch.setattr(partial, "_lock", interrupted)
    with appearing(tmp_path / "x") as stream:
        stream.write(b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"
    assert len(set(seen)) == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_files_are_written_and_none_is_removed(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(partial.fcntl, "flock", refuse)
    with appearing(tmp_path / "x") as stream:
        stream.write(b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"
    (tmp_path / ".y.0123abcd.part").touch()
    assert remove_leftovers(parts(tmp_path)) == 0
    assert len(parts(tmp_path)) == 1


def test_a_leftover_that_another_removes_first_is_no_error(tmp_path):
    assert remove_leftovers([tmp_path / ".gone.0123abcd.part"]) == 0


# --- written once --------------------------------------------------------------------------------


def test_what_is_there_already_is_not_written_again(tmp_path):
    assert keep(tmp_path / "x", b"1")
    before = (tmp_path / "x").stat()
    assert not keep(tmp_path / "x", b"1")
    after = (tmp_path / "x").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert keep(tmp_path / "x", b"2")
    assert (tmp_path / "x").read_bytes() == b"2"


def test_a_second_run_writes_no_file_of_the_dataset(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    (raw / "participants.tsv").write_text("participant_id\nsub-01\n")

    def written():
        write_dataset(out, raw, "1")
        return {path.name: path.stat().st_ino for path in out.iterdir()}

    first = written()
    assert {"dataset_description.json", ".bidsignore", "README", "participants.tsv"} == set(first)
    time.sleep(0.01)
    assert written() == first
    (raw / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\n")
    second = written()
    assert [name for name in first if first[name] != second[name]] == ["participants.tsv"]
    assert (out / "participants.tsv").read_text().endswith("sub-02\n")
