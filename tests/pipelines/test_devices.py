"""GPUs are lent to one node at a time; no GPU is needed to see that."""

import multiprocessing
import time
from itertools import pairwise
from pathlib import Path

import pytest
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    SimpleInterface,
    TraitedSpec,
    traits,
)
from nipype.pipeline import engine as pe

from bidsapp import machine
from models.errors import InputError
from pipelines.devices import leased
from pipelines.execution import Resources, run_workflow


def hold(folder, gpus, name, seconds):
    with leased(Path(folder), gpus) as device:
        began = time.monotonic()
        time.sleep(seconds)
        (Path(folder) / f"{name}.txt").write_text(f"{device} {began} {time.monotonic()}")


def test_a_gpu_has_one_holder_at_a_time_and_all_gpus_are_used(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=hold, args=(str(tmp_path), 2, name, 0.5)) for name in "abcde"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    held = [path.read_text().split() for path in tmp_path.glob("*.txt")]
    assert {device for device, _, _ in held} == {"cuda:0", "cuda:1"}
    assert len(held) == 5
    for device in ("cuda:0", "cuda:1"):
        spans = sorted((float(start), float(end)) for on, start, end in held if on == device)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_the_gpu_of_a_killed_process_is_free_again(tmp_path):
    worker = multiprocessing.get_context("fork").Process(
        target=hold, args=(str(tmp_path), 1, "killed", 60)
    )
    worker.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "cuda-0.lock").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    worker.kill()
    worker.join()
    with leased(tmp_path, 1) as device:
        assert device == "cuda:0"


def test_gpus_may_be_lent_together(tmp_path):
    with leased(tmp_path, 5, 2) as one, leased(tmp_path, 5, 2) as other:
        assert [one, other] == ["cuda:0", "cuda:2"]  # and the fifth stays alone


class InSpec(BaseInterfaceInputSpec):
    device = traits.Str("cuda", usedefault=True, nohash=True)
    use_gpu = traits.Bool(True, usedefault=True, nohash=True)
    place = traits.Str(mandatory=True)


class OutSpec(TraitedSpec):
    device = traits.Str()


class OnGpu(SimpleInterface):
    """Says on which device it ran."""

    input_spec = InSpec
    output_spec = OutSpec

    def _run_interface(self, runtime):
        Path(self.inputs.place).write_text(self.inputs.device)
        self._results["device"] = self.inputs.device
        return runtime


@pytest.mark.parametrize(("gpus", "device"), [(2, {"cuda:0", "cuda:1"}), (1, {"cuda"})])
def test_nodes_of_a_run_get_a_gpu_of_their_own(tmp_path, gpus, device):
    workflow = pe.Workflow("group", base_dir=str(tmp_path / "work"))
    places = [tmp_path / f"{number}.txt" for number in range(3)]
    for number, place in enumerate(places):
        workflow.add_nodes([pe.Node(OnGpu(place=str(place)), name=f"node{number}")])
    resources = Resources(nprocs=2, memory_gb=4, gpus=gpus)
    assert run_workflow(workflow, resources, tmp_path / "logs", title="t") == []
    assert {place.read_text() for place in places} <= device


@pytest.mark.parametrize(
    ("device", "there", "wanted", "expected"),
    [
        ("cpu", 0, None, 0),
        ("cuda", 4, None, 4),
        ("cuda", 4, 2, 2),
        ("cuda:3", 4, None, 1),
        ("mps", 0, None, 1),
    ],
)
def test_how_many_gpus_a_run_uses(monkeypatch, device, there, wanted, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    assert machine.gpu_count(device, wanted) == expected


def test_gpus_of_a_fold_must_be_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert machine.gpu_count("cuda", None, 4) == 4
    assert machine.gpu_count("cpu", None, 1) == 0
    with pytest.raises(InputError, match="--gpus-per-fold 3: this run has 2 GPUs"):
        machine.gpu_count("cuda", 2, 3)


@pytest.mark.parametrize(("device", "wanted"), [("cuda", 5), ("cuda:0", 2), ("cpu", 1)])
def test_more_gpus_than_there_are_is_refused(monkeypatch, device, wanted):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(InputError, match=f"--n-gpus {wanted}: with --device {device}"):
        machine.gpu_count(device, wanted)
