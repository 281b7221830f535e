"""A run goes to its end: what fails is told in a sentence, what does not depend on it is done."""

import gc
import logging
import os
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import is_alive, number_in, wait_for
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from pipelines import execution
from pipelines.execution import (
    Failure,
    Resources,
    SurvivingPool,
    read_failures,
    run_workflow,
)
from pipelines.usage import Usage, UsageTable


def fine(x):
    return x + 1


def refuse(x):
    from models.errors import InputError

    raise InputError("sub-01_T1w.nii.gz: is cut short; fetch it again")


def crash(x):
    raise KeyError("surprise")


def die(x):
    import os
    import signal
    import time

    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)


def big(x):
    import time

    held = bytearray(300_000_000)
    time.sleep(0.5)
    return len(held)


def big_program(x):
    import sys

    from pipelines.programs import run_program

    code = "import time; held = bytearray(300_000_000); time.sleep(.5)"
    return run_program([sys.executable, "-c", code]).returncode


def node(name, function, **options):
    made = pe.Node(niu.Function(["x"], ["y"], function=function), name=name, **options)
    made.inputs.x = 1
    return made


def workflow(folder, chains, alone=()):
    """Pairs of nodes in which the second needs the first, and nodes on their own."""
    made = pe.Workflow("participant", base_dir=str(folder))
    for first, second in chains:
        made.connect(first, "y", second, "x")
    made.add_nodes(list(alone))
    return made


def done(folder):
    return {path.parent.name for path in folder.rglob("result_*.pklz")}


@pytest.fixture(autouse=True)
def _levels():
    names = ("nipype", "nipype.workflow", "nipype.utils", "nipype.interface")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def test_nothing_failed(tmp_path):
    made = workflow(tmp_path, [(node("a", fine), node("b", fine))])
    assert run_workflow(made, Resources(), tmp_path / "logs", title="t") == []
    assert done(tmp_path) == {"a", "b"}
    assert not (tmp_path / "logs").exists()


def test_a_failure_is_a_sentence_and_the_others_go_on(tmp_path):
    made = workflow(
        tmp_path,
        [(node("bad", refuse), node("after_bad", fine)), (node("good", fine), node("more", fine))],
        [node("odd", crash)],
    )
    failures = run_workflow(made, Resources(), tmp_path / "logs", title="t")
    assert done(tmp_path) >= {"good", "more"}
    assert "after_bad" not in done(tmp_path)
    told = {failure.node: failure for failure in failures}
    assert set(told) == {"participant.bad", "participant.odd"}
    assert told["participant.bad"].message == "sub-01_T1w.nii.gz: is cut short; fetch it again"
    assert told["participant.odd"].message == "KeyError: 'surprise'"
    for failure in failures:
        assert "Traceback" in failure.crash_file.read_text()
        assert failure.crash_file.is_relative_to(tmp_path / "logs")


def test_a_killed_worker_is_a_failure_and_no_hang(tmp_path):
    made = workflow(
        tmp_path,
        [
            (node("killed", die), node("after", fine)),
            (node("bad", refuse), node("after_bad", fine)),
        ],
        [node(f"good{i}", fine) for i in range(5)],
    )
    failures = run_workflow(made, Resources(nprocs=2), tmp_path / "logs", title="t")
    told = {failure.node: failure.message for failure in failures}
    assert set(told) == {"participant.killed", "participant.bad"}
    assert "killed for memory" in told["participant.killed"]
    assert "--mem" in told["participant.killed"]
    assert told["participant.bad"].endswith("fetch it again")
    assert done(tmp_path) >= {f"good{i}" for i in range(5)}
    assert not done(tmp_path) & {"after", "after_bad"}


@pytest.mark.parametrize("nprocs", [1, 2])
@pytest.mark.parametrize("function", [big, big_program])
def test_steps_are_measured_with_their_programs(tmp_path, nprocs, function):
    if function is big_program and sys.platform != "linux":
        pytest.skip("programs are measured on Linux only")
    made = workflow(tmp_path, [(node("a", function), node("b", fine))])
    assert run_workflow(made, Resources(nprocs=nprocs), tmp_path / "logs", title="t") == []
    table = UsageTable(tmp_path / "participant/usage.tsv")
    more = table.expected_gb(SimpleNamespace(name="a")) - table.expected_gb(
        SimpleNamespace(name="b")
    )
    assert 0.25 < more < 0.45
    assert table.before["a"]["seconds"] > 0.5 > table.before["b"]["seconds"]


@pytest.mark.parametrize("nprocs", [1, 2])
def test_a_step_that_failed_is_not_planned_with(tmp_path, nprocs):
    """It may have failed at once, long before it needed its memory."""
    made = workflow(tmp_path, [], [node("bad", refuse), node("good", fine)])
    assert run_workflow(made, Resources(nprocs=nprocs), tmp_path / "logs", title="t")
    assert set(UsageTable(tmp_path / "participant/usage.tsv").before) == {"good"}


def test_gathering_the_parts_of_a_map_node_is_not_what_it_takes(tmp_path):
    def run():
        made = pe.Workflow("participant", base_dir=str(tmp_path))
        many = pe.MapNode(niu.Function(["x"], ["y"], function=fine), iterfield=["x"], name="many")
        many.inputs.x = [1, 2]
        made.add_nodes([many])
        assert run_workflow(made, Resources(nprocs=2), tmp_path / "logs", title="t") == []
        return UsageTable(tmp_path / "participant/usage.tsv").before["many"]["runs"]

    assert run() == 2
    (tmp_path / "participant/many/result_many.pklz").unlink()  # as if killed before the end
    assert run() == 2


def test_a_full_disk_does_not_hide_what_failed(tmp_path, monkeypatch):
    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(UsageTable, "write", no_space)
    made = workflow(tmp_path, [], [node("bad", refuse)])
    (failure,) = run_workflow(made, Resources(), tmp_path / "logs", title="t")
    assert failure.message.endswith("fetch it again")


def test_memory_is_planned_with_what_was_measured(tmp_path):
    """Declared, both would fit side by side; measured, they do not."""

    def together(seen):
        running = {name for name, status in seen if status == "start"}
        first_end = next(i for i, (_, status) in enumerate(seen) if status == "end")
        return {name for name, _ in seen[:first_end]} == running

    def run(plan):
        seen = []
        made = workflow(tmp_path / plan, [], [node(n, big, mem_gb=0.1) for n in ("a", "b")])
        file = tmp_path / plan / "participant/usage.tsv"
        usage = UsageTable(file)
        if plan == "measured":
            for one in made._graph.nodes():
                usage.add(one, Usage(0.7, 1))
        pool = SurvivingPool({"n_procs": 2, "memory_gb": 1.0, "mp_context": "forkserver"}, usage)
        pool._status_callback = lambda one, status: seen.append((one.name, status))
        made.run(plugin=pool)
        return seen

    assert together(run("declared"))
    assert not together(run("measured"))


RUN = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])

def wait(x):
    import os, sys
    from pathlib import Path
    from pipelines.programs import run_program
    Path(x).write_text(str(os.getpid()))
    say = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    run_program([sys.executable, "-c", say, x + "-program"])

if __name__ == "__main__":
    from test_execution import node, workflow
    from pipelines.execution import Resources, run_workflow
    folder = Path(sys.argv[1])
    nodes = [node(name, wait) for name in "ab"]
    for one in nodes:
        one.inputs.x = str(folder / one.name)
    made = workflow(folder / "work", [], nodes)
    run_workflow(made, Resources(nprocs=int(sys.argv[3])), folder / "logs", title="t")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers die with the run on Linux only")
@pytest.mark.parametrize("nprocs", [1, 2])
def test_workers_and_their_programs_die_with_a_killed_run(tmp_path, nprocs):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    run = subprocess.Popen(
        [sys.executable, script, tmp_path, Path(__file__).parent, str(nprocs)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[1:3]))},
    )
    files = [tmp_path / f"{name}{what}" for name in "ab"[:nprocs] for what in ("", "-program")]
    processes = [number_in(file) for file in files]
    assert all(map(is_alive, processes))
    run.kill()
    run.wait()
    wait_for(lambda: not any(map(is_alive, processes)))


def test_a_worker_that_cannot_start_a_node_says_why(tmp_path, monkeypatch):
    """As when the package is updated under a run: main process and workers differ."""

    class Updated(execution.SurvivingPool):
        def __init__(self, plugin_args, usage):
            super().__init__(plugin_args, usage)
            self._gpus = ()

    monkeypatch.setattr(execution, "SurvivingPool", Updated)
    made = workflow(tmp_path, [], [node("a", fine)])
    (failure,) = run_workflow(made, Resources(nprocs=2), tmp_path / "logs", title="t")
    assert failure.node == "participant.a"
    assert "updated during the run" in failure.message
    assert "memory" not in failure.message
    assert "TypeError" in failure.message


@pytest.mark.parametrize("nprocs", [1, 2])
def test_a_failure_without_crash_file_is_told(tmp_path, monkeypatch, nprocs):
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    for module in ("linear", "base"):
        monkeypatch.setattr(f"nipype.pipeline.plugins.{module}.report_crash", no_space)
    made = workflow(tmp_path, [(node("bad", refuse), node("after_bad", fine))])
    (failure,) = run_workflow(made, Resources(nprocs=nprocs), tmp_path / "logs", title="t")
    assert failure.node == "participant.bad"
    assert failure.crash_file is None
    assert "No space left on device" in failure.message


def test_stop_on_first_crash_stops(tmp_path):
    made = workflow(tmp_path, [(node("a", refuse), node("b", fine))])
    later = node("z", fine)
    made.connect(node("y", fine), "y", later, "x")
    resources = Resources(stop_on_first_crash=True)
    (failure,) = run_workflow(made, resources, tmp_path / "logs", title="t")
    assert failure.node == "participant.a"
    assert "z" not in done(tmp_path)


def slow(x):
    import os
    import time
    from pathlib import Path

    Path(x).write_text(str(os.getpid()))
    time.sleep(60)


def refuse_later(x):
    import time
    from pathlib import Path

    from models.errors import InputError

    while not Path(x).exists():
        time.sleep(0.05)
    raise InputError("sub-01_T1w.nii.gz: is cut short; fetch it again")


def test_stop_on_first_crash_leaves_nobody_at_work(tmp_path):
    """Whose locks the run gives back must not be worked on any more."""
    here = str(tmp_path / "here")
    made = workflow(tmp_path, [], [node("bad", refuse_later), node("slow", slow)])
    for one in made._graph.nodes():
        one.inputs.x = here
    resources = Resources(nprocs=2, stop_on_first_crash=True, gpus=2)
    began = time.monotonic()
    (failure,) = run_workflow(made, resources, tmp_path / "logs", title="t")
    assert failure.node == "participant.bad"
    assert time.monotonic() - began < 50
    assert not is_alive(int(Path(here).read_text()))
    assert active_children() == []
    assert "slow" not in done(tmp_path)


def test_gpu_locks_do_not_outlive_a_stopped_run(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    made = workflow(tmp_path, [(node("a", refuse), node("b", fine))])
    resources = Resources(nprocs=2, gpus=2, stop_on_first_crash=True)
    assert run_workflow(made, resources, tmp_path / "logs", title="t")
    assert not list((tmp_path / "tmp").glob("brainwhy-gpus-*"))


def test_a_scheduler_that_cannot_start_says_so(tmp_path):
    made = workflow(tmp_path, [(node("a", fine), node("b", fine))])
    with pytest.raises(RuntimeError, match="preprocess: the scheduler stopped"):
        run_workflow(made, Resources(plugin="NoSuch"), tmp_path / "logs", title="preprocess")


def test_another_plugin_runs_the_same_workflow(tmp_path):
    made = workflow(tmp_path, [(node("a", fine), node("b", fine))])
    assert run_workflow(made, Resources(plugin="Linear"), tmp_path / "logs", title="t") == []
    assert done(tmp_path) == {"a", "b"}


def test_a_second_run_runs_nothing(tmp_path):
    def run():
        made = workflow(tmp_path, [(node("a", fine), node("b", fine))])
        assert run_workflow(made, Resources(), tmp_path / "logs", title="t") == []
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result_*.pklz")}

    assert run() == run()


@pytest.mark.parametrize(
    ("name", "participant"),
    [
        ("participant.sub_01.t1w_wf.conform", "sub-01"),
        ("participant.sub_noT1w.t1w_ses_1_wf.register", "sub-noT1w"),
        ("explain_tiny.sub_01.explain", "sub-01"),
        ("explain_tiny.sub_03_ses_2.explain", "sub-03"),
        ("group_tiny.train", ""),
        ("group_tiny._train0", ""),
    ],
)
def test_failures_know_their_person(tmp_path, name, participant):
    assert Failure(name, "", tmp_path).participant == participant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Node: a.b\nTraceback\nmodels.errors.InputError: x: bad; mend it\n", "x: bad; mend it"),
        ("Node: a.b\nTraceback\nOSError: disk full\n\n", "OSError: disk full"),
        (
            "Node: a.b\nthe process died\n\nWhen creating this crashfile, the results file "
            "corresponding\nto the node could not be found.",
            "the process died",
        ),
        (
            "Node: a.b\nOSError: disk full\n\nDuring the creation of this crashfile triggered by "
            "the above exception,\nanother exception occurred:\n\nx.",
            "OSError: disk full",
        ),
    ],
)
def test_crash_files_are_read_for_their_sentence(tmp_path, text, message):
    (tmp_path / "crash-1.txt").write_text(text)
    (failure,) = read_failures(tmp_path)
    assert (failure.node, failure.message) == ("a.b", message)


def test_waiting_does_not_look_through_what_was_there_before(tmp_path, monkeypatch):
    """MultiProc collects garbage at every turn: of what this process had loaded, there is none."""
    seen = []
    turn = SurvivingPool._send_procs_to_workers

    def watched(self, *arguments, **options):
        seen.append((gc.get_freeze_count(), len(gc.get_objects())))
        return turn(self, *arguments, **options)

    monkeypatch.setattr(SurvivingPool, "_send_procs_to_workers", watched)
    before = gc.get_freeze_count()
    made = workflow(tmp_path, [(node("a", fine), node("b", fine))])
    run_workflow(made, Resources(nprocs=2), tmp_path / "logs", title="t")
    assert all(frozen > 10 * looked_at for frozen, looked_at in seen)
    assert gc.get_freeze_count() == before
