"""One fold trained by several processes, each with a GPU of its own, through torchrun.

``python -m pipelines.together JOB`` is what each process runs; :func:`train_together` starts them.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import InputError
from pipelines.programs import end_with, parent_of, run_program

FOLDER = Path(__file__).parents[1]


def devices_of(device: str, processes: int) -> list[str]:
    """Device of each process: GPUs in a row from ``device`` on, or the CPU for all."""
    kind, _, first = device.partition(":")
    if kind != "cuda":
        return [device] * processes
    return [f"cuda:{int(first or 0) + number}" for number in range(processes)]


def train_together(
    inputs: Mapping[str, Any], call: Mapping[str, Any], job: Path, devices: list[str]
) -> None:
    """Train a network by as many processes as there are devices.

    Parameters
    ----------
    inputs : mapping
        Of a `TrainFold`.
    call : mapping
        Arguments of its training, which writes weights, history and checkpoint.
    job : Path
        File that tells the processes of both.
    devices : list of str

    Raises
    ------
    models.errors.InputError
        What one of the processes raised as such.
    RuntimeError
        A process failed otherwise; its traceback is in the message.
    """
    told = {"inputs": inputs, "call": call, "devices": devices, "starter": os.getpid()}
    job.write_text(json.dumps(told, default=str))
    refused = job.with_suffix(".error")
    refused.unlink(missing_ok=True)
    ended = run_program(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(len(devices)), "-m", "pipelines.together", job),
        ],
        environment=os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])},
    )
    if refused.exists():
        raise InputError(refused.read_text())
    if ended.returncode:
        raise RuntimeError(f"{len(devices)} processes on {', '.join(devices)}: {ended.stderr}")


def _end_with(starter: int) -> None:
    """Die when torchrun does, which dies with the process that wanted the network trained.

    torchrun gives each process a session of its own, which no signal to a group of processes
    reaches.
    """
    torchrun = os.getppid()
    end_with(torchrun)
    if parent_of(torchrun) not in (starter, None):  # it was killed before this process came so far
        os._exit(1)


def main(job: Path) -> None:
    """Train as one of the processes."""
    told = json.loads(job.read_text())
    _end_with(told["starter"])
    from models.training.ranks import joined
    from pipelines.interfaces.networks import TrainFold

    with joined(told["devices"]) as device:
        fold = TrainFold(**told["inputs"] | {"device": device})
        try:
            fold.train_here(**told["call"])
        except InputError as error:
            job.with_suffix(".error").write_text(str(error))
            raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # All is written. What gloo still has running must not abort the process while Python is torn
    # down ("terminate called without an active exception"), and with it a fold that is done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
