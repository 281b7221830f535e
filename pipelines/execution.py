"""Runs a workflow on nipype's schedulers, shows progress and collects what failed."""

import fcntl
import gc
import logging
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from time import monotonic, time
from traceback import format_exception
from typing import Any

from nipype import config
from nipype.pipeline import engine as pe
from nipype.pipeline import plugins
from nipype.pipeline.plugins.linear import LinearPlugin
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer, run_node
from tqdm import tqdm

from pipelines.devices import leased
from pipelines.usage import Meter, Usage, UsageTable


@dataclass(frozen=True)
class Resources:
    """What a run may use.

    Parameters
    ----------
    nprocs : int
        Processes at the same time.
    memory_gb : float
        For all of them; nodes wait when theirs does not fit.
    gpus : int
        GPUs of the run, each lent to one node at a time.
    gpus_each : int
        GPUs that are lent together.
    plugin, plugin_args : str, dict
        Another nipype plugin than MultiProc (``--use-plugin``).
    stop_on_first_crash : bool
    """

    nprocs: int = 1
    memory_gb: float = 4.0
    gpus: int = 0
    gpus_each: int = 1
    plugin: str = "MultiProc"
    plugin_args: dict[str, Any] | None = None
    stop_on_first_crash: bool = False


@dataclass(frozen=True)
class Failure:
    """One node that failed.

    Attributes
    ----------
    node : str
        Its full name: workflow.person.modality.node.
    message : str
        The sentence for the user: that of an InputError, else the exception.
    crash_file : Path or None
        The traceback and the node's inputs; None where not even that could be written.
    """

    node: str
    message: str
    crash_file: Path | None

    @property
    def participant(self) -> str:
        """``sub-01`` where the node belongs to a person, else ""."""
        found = re.search(r"\.sub_([0-9a-zA-Z]+)(_ses_\w+)?(\.|$)", self.node)
        return f"sub-{found[1]}" if found else ""


DIED = (
    "the process died twice, most likely killed for memory: give --mem what the machine has, or "
    "lower --nprocs"
)
NOT_BEGUN = (
    "a worker could not start this step; was brainwhy or a package updated during the run? Start "
    "it again, and it goes on from here"
)


class SurvivingPool(MultiProcPlugin):
    """MultiProc that goes on when a worker is killed (out of memory) instead of hanging.

    A killed worker breaks its whole pool, and who was to blame is not told. What ran in it is
    therefore run once more, one node at a time, each in a process of its own; the others go on in
    a new pool. Nodes on a GPU get one for themselves, where the run has several. Memory is planned
    with what a step was measured to take, as soon as it ran once.
    """

    pool: ProcessPoolExecutor

    def __init__(self, plugin_args: dict[str, Any], usage: UsageTable) -> None:
        super().__init__(plugin_args)
        self.pool = self._new_pool(self.processors)
        self._usage = usage
        each = self.plugin_args.get("gpus_each", 1)
        gpus = each * self.plugin_args.get("n_gpu_procs", 0)
        self._locks = Path(tempfile.mkdtemp(prefix="brainwhy-gpus-")) if gpus > each else Path()
        self._gpus = (self._locks, gpus, each)
        self._jobs: dict[int, tuple[Any, ...]] = {}
        self._again = ThreadPoolExecutor(max_workers=1)
        self._tried_again: set[int] = set()
        self._replan = True

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run the graph; no process of it is left, also where the first crash stops everything."""
        # MultiProc collects garbage 20 times a second. To look through all modules and the whole
        # graph each time kept most of a core busy; what is there already is none.
        gc.collect()
        gc.freeze()
        try:
            super().run(graph, config, updatehash)
        except BaseException:
            for worker in active_children():  # their steps are as good as killed: nobody waits
                worker.kill()
            raise
        finally:
            gc.unfreeze()
            self._close()

    def _close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self._again.shutdown(cancel_futures=True)
        if self._locks.name:
            shutil.rmtree(self._locks, ignore_errors=True)

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        level = logging.getLogger("nipype.workflow").level
        self._jobs[self._taskid] = (level, node, updatehash, self._taskid, *self._gpus)
        try:
            task = self.pool.submit(_run_node, *self._jobs[self._taskid])
        except BrokenProcessPool:
            self.pool = self._new_pool(self.processors)
            task = self.pool.submit(_run_node, *self._jobs[self._taskid])
        self._follow(self._taskid, task)
        return self._taskid

    def _follow(self, taskid: int, task: Future) -> None:
        task.add_done_callback(self._async_callback)
        self._task_obj[taskid] = task

    def _async_callback(self, args: Any) -> None:
        if args.exception() is None:
            super()._async_callback(args)

    def _get_result(self, taskid: int) -> Any:
        task = self._task_obj[taskid]
        if not task.done() or task.exception() is None:
            result = super()._get_result(taskid)
            if result and not result["traceback"]:
                self._note(self._jobs[taskid][1], result["usage"])
            return result
        error = task.exception()
        if not isinstance(error, BrokenProcessPool):  # the worker lives, the node never began
            said = f"{NOT_BEGUN} ({error!r})"
            return {"result": None, "traceback": [*format_exception(error), said]}
        if taskid not in self._tried_again:
            self._tried_again.add(taskid)
            self._follow(taskid, self._again.submit(self._run_alone, taskid))
            return None
        return {"result": None, "traceback": [f"{DIED} ({error!r})"]}

    def _note(self, node: Any, used: Usage) -> None:
        """Plan with what a step took, except a MapNode that only gathered what its parts did."""
        if node.fullname not in {self.procs[number].fullname for number in self.mapnodes}:
            self._replan |= self._usage.add(node, used)

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        if self._replan:  # seldom: this is called 20 times a second, for 100,000 nodes perhaps
            self._replan = False
            for node in self.procs:
                node._mem_gb = self._usage.expected_gb(node) or node._mem_gb
        super()._send_procs_to_workers(updatehash, graph)

    def _run_alone(self, taskid: int) -> Any:
        with self._new_pool(1) as pool:
            return pool.submit(_run_node, *self._jobs[taskid]).result()

    def _new_pool(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            workers,
            get_context(self.plugin_args.get("mp_context")),
            _start_worker,
            (self._cwd,),
        )

    def _clear_task(self, taskid: int) -> None:
        super()._clear_task(taskid)
        del self._jobs[taskid]


def _start_worker(folder: str) -> None:
    """Prepare a worker, and let it die with the run: nobody else would collect its results.

    The kernel does it, by the signal that the parent's end of a pipe is closed: a thread would
    have to wait for the end of a long call of ITK.
    """
    process_initializer(folder)
    parent = parent_process()
    if parent is None or not hasattr(os, "O_ASYNC"):
        return
    pipe = parent.sentinel
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if not parent.is_alive():  # it died before the signal was asked for
        os._exit(1)


def _run_node(
    level: int, node: Any, updatehash: bool, taskid: int, locks: Path, gpus: int, each: int
) -> Any:
    """Run a node in a worker, as talkative as the main process."""
    logging.getLogger("nipype.workflow").setLevel(level)
    with ExitStack() as stack:
        if gpus > each and getattr(node.inputs, "device", None) == "cuda":
            # The device is no part of the node's hash.
            node.inputs.device = stack.enter_context(leased(locks, gpus, each))
        with Meter() as meter:
            result = run_node(node, updatehash, taskid)
    return result | {"usage": meter.used}


def run_workflow(
    workflow: pe.Workflow,
    resources: Resources,
    crash_root: Path,
    *,
    title: str,
    verbose: bool = False,
) -> list[Failure]:
    """Run to the end; what does not depend on a failed node is still done.

    Returns
    -------
    list of Failure
        Empty when everything worked.
    """
    crash_dir = crash_root / f"crash-{uuid.uuid4().hex[:8]}"
    _configure(workflow, crash_dir, resources.stop_on_first_crash, verbose)
    usage = UsageTable(Path(workflow.base_dir) / workflow.name / "usage.tsv")
    with tqdm(
        total=_count(workflow),
        desc=title,
        unit="step",
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 20,
    ) as bar:
        failed: list[str] = []
        reason = ""
        try:
            _run(workflow, resources, usage, bar, failed)
        except Exception as error:
            reason = str(error) or type(error).__name__
            if not failed and not read_failures(crash_dir):
                raise RuntimeError(f"{title}: the scheduler stopped: {reason}") from error
        finally:
            with suppress(OSError):  # a full disk; what failed is told, and matters more
                usage.write()
    return _with_untold(read_failures(crash_dir), failed, reason)


def _with_untold(failures: list[Failure], failed: Sequence[str], reason: str) -> list[Failure]:
    """The failures, and those of nodes that failed without leaving a crash file (a full disk)."""
    told = {failure.node for failure in failures}
    said = f"failed and left no report; the scheduler says: {reason.strip() or 'nothing'}"
    return failures + [Failure(name, said, None) for name in failed if name not in told]


def _run(
    workflow: pe.Workflow, resources: Resources, usage: UsageTable, bar: Any, failed: list[str]
) -> None:
    progress = _Progress(bar)
    if resources.plugin != "MultiProc":
        plugin = getattr(plugins, f"{resources.plugin}Plugin")
        scheduler = plugin(plugin_args=resources.plugin_args)
    elif resources.nprocs == 1:
        scheduler, progress = LinearPlugin(), _MeteredProgress(bar, usage)
    else:
        scheduler = SurvivingPool(
            {
                "n_procs": resources.nprocs,
                "memory_gb": resources.memory_gb,
                "n_gpu_procs": resources.gpus // resources.gpus_each,
                "gpus_each": resources.gpus_each,
                "raise_insufficient": False,
                "mp_context": "forkserver",
            }
            | (resources.plugin_args or {}),
            usage,
        )
    # Not through plugin_args: those are pickled with every MapNode, a progress bar cannot be.
    progress.failed = failed
    scheduler._status_callback = progress
    workflow.run(plugin=scheduler)


def _configure(workflow: pe.Workflow, crash_dir: Path, stop: bool, verbose: bool) -> None:
    settings = {
        "crashdump_dir": str(crash_dir),
        "crashfile_format": "txt",
        "stop_on_first_crash": str(stop).lower(),
        "poll_sleep_duration": "0.05",
        "create_report": "false",
        "remove_unnecessary_outputs": "false",
        "hash_method": "content",
        "check_version": "false",
    }
    config.update_config({"execution": settings})
    workflow.config["execution"] = settings
    level = logging.INFO if verbose else logging.CRITICAL
    for name in ("nipype", "nipype.workflow", "nipype.utils", "nipype.interface"):
        logging.getLogger(name).setLevel(level)


def _count(workflow: pe.Workflow) -> int:
    return sum(1 for name in workflow.list_node_names() if not name.endswith("outputnode"))


class _Progress:
    """Status callback that moves the bar and names what runs."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.since: dict[str, float] = {}
        self.failed: list[str] = []  # full names, as crash files have them

    def __call__(self, node: Any, status: str) -> None:
        name = node.fullname.split(".", 1)[-1]
        if name.endswith("outputnode"):
            return
        if status == "start":
            self.since[name] = monotonic()
        elif name in self.since:
            self.since.pop(name)
            if not re.search(r"\d+$", node.name) or not node.name.startswith("_"):
                self.bar.update()
            if status == "exception":
                self.failed.append(node.fullname)
                self.bar.write(f"failed: {name}", file=sys.stderr)
        self.bar.set_postfix_str(", ".join(list(self.since)[:2]), refresh=False)


class _MeteredProgress(_Progress):
    """The same where steps run in this process, one by one: it measures them, too."""

    def __init__(self, bar: Any, usage: UsageTable) -> None:
        super().__init__(bar)
        self.usage = usage

    def __call__(self, node: Any, status: str) -> None:
        if status == "start":
            self.meter, self.began = Meter().__enter__(), time()
        else:
            self.meter.__exit__()
            result = Path(node.output_dir()) / f"result_{node.name}.pklz"
            fresh = result.exists() and result.stat().st_mtime >= self.began  # not from the cache
            if status == "end" and fresh:
                self.usage.add(node, self.meter.used)
        super().__call__(node, status)


def read_failures(crash_dir: Path) -> list[Failure]:
    """What the crash files of one run say."""
    return [_read_crash(path) for path in sorted(crash_dir.glob("crash-*.txt"))]


def _read_crash(path: Path) -> Failure:
    text = path.read_text(errors="replace")
    for remark in ("\nWhen creating this crashfile", "\nDuring the creation of this crashfile"):
        text = text.split(remark)[0]
    node = re.search(r"^Node: (\S+)", text, re.MULTILINE)
    sentence = re.findall(r"(?:models\.errors\.)?InputError: (.+)", text)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return Failure(
        node=node[1] if node else path.name,
        message=sentence[-1] if sentence else lines[-1].strip(),
        crash_file=path,
    )
