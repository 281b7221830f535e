"""The demo of DaT-SPECT: ``brainwhy-demo make --modality spect``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidsapp import __version__
from bidsapp.demo.dataset import Texts, claim, write_image, write_texts
from bidsapp.demo.people import SEX, STORAGE
from bidsapp.score import TRUTH_FOLDER, TRUTH_NAME

if TYPE_CHECKING:
    from models.uptake import Anatomy

PATIENT, CONTROL = "reduced", "normal"
TEMPLATE_MM = 2.0
SITES: dict[str, dict[str, Any]] = {
    "north": {"gain": 1.2, "name": "Simulated N"},
    "south": {"gain": 0.8, "name": "Simulated S"},
}
BINDING_TRUTH = "binding.tsv"

PARTICIPANT_COLUMNS = {
    "striatum": {
        "Description": "What a reader would call the striatal uptake",
        "Levels": {
            PATIENT: "Simulated patient: striatal loss, more on one side; less insular uptake",
            CONTROL: "Simulated control",
        },
    },
    "age": {"Description": "Age (changes nothing in the images)", "Units": "year"},
    "sex": SEX,
    "side": {
        "Description": "Side of the brain that is more affected",
        "Levels": {"L": "left", "R": "right", "n/a": "controls"},
    },
    "site": {
        "Description": "Simulated camera",
        "Levels": {"north": "more counts", "south": "fewer counts"},
    },
}

README = """\
# BrainWhy demo of DaT-SPECT

Synthetic 123I-FP-CIT SPECT, no human data: every scan is a head shaped from one brain template
(ICBM 152 Nonlinear Asymmetric 2009c, (c) 1993-2009 Louis Collins, McConnell Brain Imaging
Centre, Montreal Neurological Institute, McGill University) and the AAL atlas, filled with uptake,
blurred and counted. {participants} people, {voxel:g} mm voxels, seed {seed}.

People called "{patient}" have lost {percent:.0f} % of the binding of the putamen on their affected
side, less on the other and in the caudate; and {insula:.0f} % of the specific uptake of the insula,
on both sides. "{control}" people have lost nothing. What is true of whom is in
`derivatives/truth`. Images are stored in different orientations, and two cameras differ in counts;
neither depends on the group. Made by `brainwhy-demo make` {version}.
"""
TRUTH_README = f"""\
# What is true of the demo

`{BINDING_TRUTH}`: every person's specific binding per nucleus, and of the insula.
`{TRUTH_NAME}`: the insula in template space, the one region outside the striata whose uptake the
group has to do with.
"""


@dataclass(frozen=True)
class Person:
    """One simulated participant; ``index`` settles everything, whatever the cohort's size."""

    index: int
    label: str
    striatum: str
    age: int
    sex: str
    side: str
    site: str
    axcodes: str

    @property
    def is_patient(self) -> bool:
        """Whether the uptake was reduced."""
        return self.striatum == PATIENT

    def row(self) -> dict[str, str]:
        """Return the line of participants.tsv."""
        columns = {name: str(getattr(self, name)) for name in PARTICIPANT_COLUMNS}
        return {"participant_id": f"sub-{self.label}", **columns}


def person(index: int, seed: int) -> Person:
    """Draw participant ``index``: even ones are patients, odd ones their matched controls."""
    from models.phantom import person_seed, stream

    pair = index // 2
    pair_age = stream(person_seed(seed, 2 * pair), 3).normal(67.0, 9.0)
    jitter = stream(person_seed(seed, index), 4).uniform(-1.5, 1.5)
    patient = index % 2 == 0
    return Person(
        index=index,
        label=f"{index + 1:02d}",
        striatum=PATIENT if patient else CONTROL,
        age=round(min(max(pair_age, 40.0), 88.0) + jitter),
        sex="FM"[pair // 2 % 2],
        side="LR"[(pair + pair // 2) % 2] if patient else "n/a",
        site=list(SITES)[pair % 2],
        axcodes=STORAGE[pair % len(STORAGE)],
    )


def make(
    target: Path,
    *,
    participants: int = 48,
    resolution: float = 4.0,
    effect: float = 0.6,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Write the demo dataset with its truth.

    Parameters
    ----------
    target : Path
        New or empty folder; with ``force`` an earlier demo is replaced.
    participants : int
        People, patients and controls in turn.
    resolution : float
        Voxel edge in mm.
    effect : float
        Share of binding lost by the putamen of the affected side (0: a null dataset).
    seed : int
        Settles everything; person k is the same in cohorts of any size.

    Raises
    ------
    InputError
        If the folder cannot be used.
    """
    import pandas as pd
    from tqdm import tqdm

    from pipelines.derivatives import write_table

    claim(target, force)
    people = [person(index, seed) for index in range(participants)]
    write_texts(target, _texts(people, effect, resolution, seed))
    anatomy = _anatomy(target)
    rows = [
        _write_scan(target, anatomy, who, resolution, effect, seed)
        for who in tqdm(people, desc="brainwhy-demo make", unit="scan", disable=None)
    ]
    write_table(target / TRUTH_FOLDER / BINDING_TRUTH, pd.DataFrame(rows))


def _anatomy(target: Path) -> "Anatomy":
    """The template's anatomy; the truth in template space is written on the way."""
    from tempfile import TemporaryDirectory

    import nibabel as nib
    import numpy as np

    from pipelines.interfaces.nuclear import anatomy_of
    from pipelines.participant import template_on_grid

    with TemporaryDirectory() as folder:
        brain = template_on_grid(TEMPLATE_MM, Path(folder))
        anatomy = anatomy_of(brain)
    insula = anatomy.region("Insula") & anatomy.brain
    write_image(
        target / TRUTH_FOLDER / TRUTH_NAME,
        nib.Nifti1Image(insula.astype(np.uint8), anatomy.affine),
        {
            "Description": "Insula of both sides (AAL): its uptake is reduced in patients",
            "Type": "ROI",
            "Regions": ["Insula_L", "Insula_R"],
            "Modality": "spect",
            "AffectedGroup": PATIENT,
        },
    )
    return anatomy


def _write_scan(
    target: Path, anatomy: "Anatomy", who: Person, resolution: float, effect: float, seed: int
) -> dict[str, Any]:
    """Write one raw image; its row of the truth."""
    from models.phantom import person_seed
    from models.uptake_phantom import simulate_uptake
    from pipelines.derivatives import relative_path

    scan = simulate_uptake(
        anatomy,
        person_seed(seed, who.index),
        patient=who.is_patient,
        side=who.side,
        loss=effect,
        voxel_mm=resolution,
        gain=SITES[who.site]["gain"],
        axcodes=who.axcodes,
    )
    raw = relative_path("spect", ".nii.gz", {"sub": who.label, "trc": "123IFPCIT"})
    write_image(target / raw, scan.image, _acquisition(who))
    return {
        "participant_id": f"sub-{who.label}",
        **{name: round(ratio, 4) for name, ratio in scan.ratios.items()},
        "insula": round(scan.insula, 4),
    }


def _acquisition(who: Person) -> dict[str, Any]:
    return {
        "Modality": "NM",
        "Manufacturer": SITES[who.site]["name"],
        "TracerName": "ioflupane",
        "TracerRadionuclide": "I123",
        "AttenuationCorrection": "none",
        "ReconMethodName": "simulated",
        "Units": "counts",
    }


def _texts(people: list[Person], effect: float, resolution: float, seed: int) -> Texts:
    from models.uptake_phantom import INSULA

    return Texts(
        name="BrainWhy demo: synthetic FP-CIT SPECT" + ", no effect" * (effect == 0),
        readme=README.format(
            participants=len(people),
            voxel=resolution,
            seed=seed,
            patient=PATIENT,
            control=CONTROL,
            percent=100 * effect,
            insula=100 * effect * INSULA,
            version=__version__,
        ),
        truth_readme=TRUTH_README,
        columns=PARTICIPANT_COLUMNS,
        rows=[who.row() for who in people],
        ignored="**/spect\n",
        truth_ignored="/space-*\n/binding.*\n",
    )
