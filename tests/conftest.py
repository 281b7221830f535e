"""Small brains without skull, datasets of them, and one study that many tests look at."""

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from bidsapp import cli
from models.grids import full_grid
from models.volumes import to_grid
from pipelines.atlases import template

RECIPE = """\
name = "tiny"
description = "Seconds on one core: 3 mm, affine registration, two folds of two epochs."

[preprocessing]
registration = "linear"
resolution_mm = 3.0
grid = "3mm"

[cohort]
target = "diagnosis"
positive = "AD"
negative = "CN"
covariates = ["age"]

[network]
name = "demo"

[training]
folds = 2
validation_share = 0.0

[training.protocol]
epochs = 2
select = "last"

[[attribution]]
method = "saliency"

[statistics]
maps = ["image", "saliency"]
permutations = 20
"""

SIDE_MM = {"L": (-36.0, -10.0, 12.0), "R": (36.0, -10.0, 12.0)}
OBLIQUE_DEGREES = (14.0, -9.0, 21.0)  # about x, y, z


# --- brains --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _same_draws():
    """Networks and images that a test draws without a seed are the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_template() -> nib.Nifti1Image:
    """The template brain at 4 mm, exactly zero outside."""
    image, grid = nib.load(template()), full_grid(4.0)
    data = to_grid(np.asarray(image.dataobj, np.float32), image.affine, grid)
    data[data < 20] = 0
    return nib.Nifti1Image(data, grid.affine)


@pytest.fixture(scope="session")
def brain(small_template: nib.Nifti1Image) -> Callable[..., nib.Nifti1Image]:
    """Make a brain without skull; ``side`` places a bright ball into that half of it."""

    def make(
        seed: int = 0, axcodes: str = "RAS", *, side: str = "", oblique: bool = False
    ) -> nib.Nifti1Image:
        rng = np.random.default_rng(seed)
        world = small_template.affine.copy()
        if oblique:
            world[:3, :3] = _rotation(OBLIQUE_DEGREES) @ world[:3, :3]
            middle = np.array(small_template.shape) / 2
            world[:3, 3] -= world[:3, :3] @ middle - small_template.affine[:3, :3] @ middle
        person = _person(rng)  # template to person, mm
        back = np.linalg.inv(small_template.affine) @ np.linalg.inv(person) @ world
        data = affine_transform(np.asarray(small_template.dataobj), back, order=1)
        data[data < 10] = 0
        data[data > 0] += rng.normal(0, 3, int((data > 0).sum()))
        if side:
            voxels = np.moveaxis(np.indices(data.shape), 0, -1)
            mm = voxels @ world[:3, :3].T + world[:3, 3]
            centre = nib.affines.apply_affine(person, SIDE_MM[side])
            data[np.linalg.norm(mm - centre, axis=-1) < 8] = 600
        image = nib.Nifti1Image(data.astype(np.float32), world)
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axcodes)
        )
        return image.as_reoriented(turn)

    return make


def _person(rng: np.random.Generator) -> np.ndarray:
    """A head a little larger or smaller, turned and moved."""
    matrix = np.eye(4)
    matrix[:3, :3] = _rotation(rng.uniform(-4, 4, 3)) @ np.diag(rng.uniform(0.96, 1.03, 3))
    matrix[:3, 3] = rng.uniform(-4, 4, 3)
    return matrix


def _rotation(degrees: Sequence[float]) -> np.ndarray:
    x, y, z = np.deg2rad(degrees)
    turns = [
        [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]],
        [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]],
        [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]],
    ]
    return np.array(turns[2]) @ np.array(turns[1]) @ np.array(turns[0])


def bright_centre_mm(path: Path) -> np.ndarray:
    """World position (RAS+, mm) of the brightest ball in an image."""
    image = nib.Nifti1Image.from_filename(path)
    data = np.asarray(image.dataobj)
    voxels = np.argwhere(data > 0.7 * data.max())
    return nib.affines.apply_affine(image.affine, voxels.mean(0))


# --- datasets ------------------------------------------------------------------------------------


def save_scan(
    folder: Path, participant: str, image: nib.Nifti1Image | bytes, ses: str = ""
) -> Path:
    """Put a T1w image (or bytes under its name) into a raw dataset."""
    stem = f"sub-{participant}" + (f"_ses-{ses}" if ses else "")
    path = folder / f"sub-{participant}" / (f"ses-{ses}" if ses else "") / f"anat/{stem}_T1w.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        nib.save(image, path)
    path.with_name(f"{stem}_T1w.json").write_text("{}")
    return path


def describe(folder: Path, people: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Write dataset_description.json and participants.tsv."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"Name": "small brains", "BIDSVersion": "1.11.1", "DatasetType": "raw"})
    (folder / "dataset_description.json").write_text(text)
    (folder / "README").write_text("Synthetic brains for tests; nobody was scanned for them.\n")
    if people:
        columns = list(next(iter(people.values())))
        rows = ["\t".join(["participant_id", *columns])]
        rows += ["\t".join([f"sub-{who}", *map(str, row.values())]) for who, row in people.items()]
        (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Time and size of a folder and of everything in it."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in [folder, *sorted(folder.rglob("*"))]
    }


@pytest.fixture
def permissions_count(tmp_path: Path) -> None:
    """Skip where permissions hold nobody back, as for root."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("whoever runs this may write everywhere")


# --- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line left behind."""

    code: int
    said: str
    out: str = ""


def call(*arguments: object) -> Outcome:
    """Run ``brainwhy`` in this process."""
    before = dict(os.environ)
    said, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        finally:
            for name in set(os.environ) - set(before):
                del os.environ[name]
            os.environ.update(before)
    return Outcome(code, said.getvalue(), out.getvalue())


@pytest.fixture(scope="session")
def brainwhy() -> Callable[..., Outcome]:
    """The command line; one process, so that a run costs no start of workers."""
    return call


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file that takes seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


# --- one study -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """Six people of a cohort, one who is new, and two who cannot be used, after both levels."""

    raw: Path
    out: Path
    recipe: Path
    participant: Outcome
    group: Outcome
    raw_before: Mapping[str, tuple[int, int]]

    def run(self, *arguments: object) -> Outcome:
        """Call the app on this study again."""
        return call(self.raw, self.out, *arguments, "--recipe", self.recipe, "--nprocs", 1)

    def anat(self, participant: str, pattern: str) -> list[Path]:
        """Derivatives of one person below all sessions."""
        return sorted(self.out.glob(f"sub-{participant}/**/anat/{pattern}"))


# participant: (storage axes, side of the bright ball, oblique, sessions)
COHORT = {
    "01": ("RAS", "L", False, ("",)),
    "02": ("LAS", "R", False, ("",)),
    "03": ("LPS", "R", False, ("1", "2")),
    "04": ("RAS", "L", True, ("",)),
    "05": ("PIR", "L", False, ("",)),
    "06": ("LAS", "L", True, ("",)),
}


@pytest.fixture(scope="session")
def study(
    tmp_path_factory: pytest.TempPathFactory, brain: Callable[..., nib.Nifti1Image], recipe: Path
) -> Study:
    """Both levels, run once; half a minute. ``new`` is preprocessed, but not in the cohort."""
    folder = tmp_path_factory.mktemp("study")
    raw = folder / "raw"
    people: dict[str, dict[str, Any]] = {}
    for number, (who, (axcodes, side, oblique, sessions)) in enumerate(COHORT.items()):
        people[who] = {"diagnosis": "CN" if number % 2 else "AD", "age": 60 + number}
        for ses in sessions:
            image = brain(number, axcodes, side=side, oblique=oblique)
            save_scan(raw, who, image, ses)
    people["05"]["age"] = "n/a"
    people |= {who: {"diagnosis": "n/a", "age": 70} for who in ("new", "cut", "noT1w")}
    people["gone"] = {"diagnosis": "AD", "age": 70}
    save_scan(raw, "new", brain(99, "LAS", side="R"))
    whole = save_scan(raw, "cut", brain(98)).read_bytes()
    save_scan(raw, "cut", whole[: len(whole) // 2])
    flair = save_scan(raw, "noT1w", b"")
    flair.rename(flair.with_name("sub-noT1w_FLAIR.nii.gz"))
    describe(raw, people)
    before = listing(raw)
    shared = (raw, folder / "out", "--recipe", recipe)
    participant = call(*shared, "participant", "--nprocs", 2)
    group = call(*shared, "group", "--nprocs", 1)
    return Study(raw, folder / "out", recipe, participant, group, before)


# --- processes -----------------------------------------------------------------------------------


def is_alive(process: int) -> bool:
    """Whether a process still runs (Linux); one that nobody has collected yet does not."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(question: Callable[[], Any], seconds: float = 60) -> Any:
    """Ask until the answer is yes, and give it back."""
    until = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)
    return answer


def number_in(file: Path) -> int:
    """The process number that another process writes into a file, as soon as it is there."""
    return int(wait_for(lambda: file.exists() and file.read_text(), 120))
