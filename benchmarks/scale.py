"""Large datasets: one person among thousands, and a group level of thousands (Linux).

Where a time or a memory has no peer, ``peer`` is the limit that the project set itself.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from rows import Row, parser, report

RECIPE = Path(__file__).parents[1] / "tests/hpc/slurm.toml"  # two folds of two epochs at 3 mm
SEEDS = 4  # people who are really preprocessed; the others are those of one session, with noise
MEMORY_GB = 4

# Ends when the first step starts, and says how long after the imports that was.
UNTIL_FIRST_STEP = """
import json, os, resource, sys, time
from bidsapp import cli, run
import bids
from nipype.pipeline.engine import nodes
began = time.perf_counter()
def first(node, *_, **__):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.perf_counter() - began, peak]), flush=True)
    os._exit(0)
nodes.Node.run = first
cli.main(sys.argv[1:])
"""


def dataset(folder: Path, people: int) -> Path:
    """Folders of many people, of whom only the last can really be read."""
    describe(folder, people)
    for number in range(people):
        path = folder / f"sub-{number:05d}/anat/sub-{number:05d}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.touch()
    nib.save(nib.Nifti1Image(np.ones((20, 20, 20), np.float32), np.eye(4)), path)
    return folder


def describe(folder: Path, people: int) -> None:
    """Description and table of a dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {"Name": "benchmark", "BIDSVersion": "1.11.1"}
    (folder / "dataset_description.json").write_text(json.dumps(text))
    rows = [f"sub-{n:05d}\t{('AD', 'CN')[n % 2]}\t{60 + n % 30}" for n in range(people)]
    text = "\n".join(["participant_id\tdiagnosis\tage", *rows])
    (folder / "participants.tsv").write_text(text + "\n")


def first_step(raw: Path, out: Path, person: int) -> tuple[float, float]:
    """Seconds from the imports to the first step of one person, and the driver's peak in MB."""
    command = [sys.executable, "-c", UNTIL_FIRST_STEP, raw, out, "participant", "--nprocs", "1"]
    label = ["--participant-label", f"{person:05d}", "--recipe", RECIPE]
    said = subprocess.run(map(str, command + label), check=True, capture_output=True, text=True)
    seconds, peak = json.loads(said.stdout)
    return seconds, peak


def derivatives(folder: Path, people: int) -> Path:
    """Derivatives of many people: those of a few, copied with other noise."""
    raw, seeds = folder / "raw", folder / "seeds"
    make = ["brainwhy-demo", "make", raw, "--participants", SEEDS]
    subprocess.run(map(str, make), check=True)
    participant = ["brainwhy", raw, seeds, "participant", "--recipe", RECIPE]
    subprocess.run(map(str, participant), check=True)
    out, rng = folder / "out", np.random.default_rng(0)
    shutil.copytree(seeds, out, ignore=shutil.ignore_patterns("sub-*", ".work", "participants*"))
    describe(out, people)
    sources = [folder.parent for folder in sorted(seeds.glob("sub-*/anat"))]
    for number in range(people):
        _copy(sources[number % len(sources)], out, f"sub-{number:05d}", rng)
    return out


def _copy(source: Path, out: Path, name: str, rng: np.random.Generator) -> None:
    """One person's images, tables and sidecars under another name."""
    for path in source.glob("anat/*"):
        if path.suffix == ".h5":
            continue
        target = out / name / "anat" / path.name.replace(source.name, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith("_T1w.nii.gz") and "_space-" in path.name:
            image = nib.load(path)
            data = np.asarray(image.dataobj, np.float32)
            data += (data > 0) * rng.normal(0, data.std(), data.shape).astype(np.float32)
            nib.save(nib.Nifti1Image(data.clip(0), image.affine, image.header), target)
        elif path.suffix in (".json", ".tsv"):
            target.write_text(path.read_text().replace(source.name, name))
        else:  # the group level does not look at it
            os.link(path, target)


class Peak:
    """Largest memory (proportional set size, GB) of a process and all below it, while it runs."""

    def __init__(self, process: int) -> None:
        self.gigabytes = 0.0
        self.process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            kilobytes = sum(map(_kilobytes, _below(self.process)))
            self.gigabytes = max(self.gigabytes, kilobytes / 1024**2)


def _below(process: int) -> list[int]:
    """Processes of the same session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == process:
            found.append(int(stat.parent.name))
    return found


def _kilobytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:",)))


def group(out: Path) -> tuple[float, float]:
    """Seconds and peak memory (GB, anonymous pages of all processes) of a group level."""
    command = ["brainwhy", out, out, "group", "--recipe", RECIPE, "--nprocs", 2]
    began = time.perf_counter()
    run = subprocess.Popen(
        [str(part) for part in (*command, "--mem", MEMORY_GB)], start_new_session=True
    )
    with Peak(run.pid) as peak:
        code = run.wait()
    if code:
        raise SystemExit(f"the group level ended with {code}")
    return time.perf_counter() - began, peak.gigabytes


def main() -> None:
    """Print the rows."""
    command = parser(__doc__)
    command.add_argument("--folder", type=Path, help="where to work (default: a temporary one)")
    arguments = command.parse_args()
    people, cohort = (200, 20) if arguments.quick else (5000, 2000)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        raw = dataset(folder / "raw5000", people)
        seconds, megabytes = first_step(raw, folder / "first", people - 1)
        which = f"one of {people} people"
        rows = [
            Row(f"{which}: imports to first step", seconds, 3.0, "limit", "s", 1),
            Row(f"{which}: driver", megabytes, 500.0, "limit", "MB", 1),
        ]
        out = derivatives(folder / "derivatives", cohort)
        seconds, gigabytes = group(out)
        which = f"group level of {cohort} people at 3 mm, {seconds:.0f} s"
        rows.append(Row(f"{which}: all processes", gigabytes, MEMORY_GB, "--mem", "GB", 1))
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
