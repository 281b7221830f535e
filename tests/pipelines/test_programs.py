"""Programs that a step starts die with it, and their memory is the step's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import is_alive, number_in, wait_for

from pipelines.programs import descendants, parent_of, run_program

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux does it")


def test_what_a_program_says_and_how_it_ends():
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    ended = run_program([Path(sys.executable), "-c", code])
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "out\n", "err\n")


def test_a_program_gets_its_environment():
    code = "import os; print(os.environ.get('WHO'))"
    ended = run_program([sys.executable, "-c", code], environment=os.environ | {"WHO": "me"})
    assert ended.stdout == "me\n"


def test_a_program_that_is_not_there_is_an_error_with_its_name():
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        run_program(["no-such-program"])


@linux
def test_a_program_dies_with_who_started_it(tmp_path):
    """Killed, so that it cannot end anything itself; a plain child would live on."""
    tied, plain = tmp_path / "tied", tmp_path / "plain"
    code = (
        "import subprocess, sys\nfrom pipelines.programs import run_program\n"
        'say = \'import os, sys, time; open(sys.argv[1], "w").write(str(os.getpid())); '
        "time.sleep(30)'\n"
        "subprocess.Popen([sys.executable, '-c', say, sys.argv[2]])\n"
        "run_program([sys.executable, '-c', say, sys.argv[1]])\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, tied, plain], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    first, second = number_in(tied), number_in(plain)
    assert is_alive(first)
    assert is_alive(second)
    starter.kill()
    starter.wait()
    wait_for(lambda: not is_alive(first), 5)
    assert is_alive(second)
    os.kill(second, 9)


@linux
def test_who_descends_from_whom():
    code = (
        "import subprocess, sys\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "print(inner.pid, flush=True)\ninput()\n"
    )
    outer = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    inner = int(outer.stdout.readline())
    assert parent_of(inner) == outer.pid
    assert parent_of(outer.pid) == os.getpid()
    assert {outer.pid, inner} <= descendants(os.getpid())
    assert descendants(outer.pid) == {inner}
    assert os.getpid() not in descendants(os.getpid())
    outer.communicate("\n")
    os.kill(inner, 9)


def test_who_has_ended_has_no_parent():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert parent_of(ended.pid) is None


def test_steps_start_programs_in_no_other_way():
    """Whatever is started otherwise is neither measured nor ended with its step."""
    ways = (
        "subprocess",
        "os.system",
        "os.spawn",
        "CommandLine",
        "Popen",
        "nipype.interfaces.mrtrix",
    )
    users = {
        (path.name, way)
        for layer in ("models", "pipelines")
        for path in (ROOT / layer).rglob("*.py")
        for way in ways
        if way in path.read_text()
    }
    assert {name for name, _ in users} == {"programs.py"}
