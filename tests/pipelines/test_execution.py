"""A run goes to its end: what fails is told in a sentence, what does not depend on it is done."""

import logging

import pytest
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from pipelines.execution import Failure, Resources, read_failures, run_workflow


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


def node(name, function):
    made = pe.Node(niu.Function(["x"], ["y"], function=function), name=name)
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


def test_stop_on_first_crash_stops(tmp_path):
    made = workflow(tmp_path, [(node("a", refuse), node("b", fine))])
    later = node("z", fine)
    made.connect(node("y", fine), "y", later, "x")
    resources = Resources(stop_on_first_crash=True)
    (failure,) = run_workflow(made, resources, tmp_path / "logs", title="t")
    assert failure.node == "participant.a"
    assert "z" not in done(tmp_path)


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
