"""The demo of T1w images: ``brainwhy-demo make``."""

from pathlib import Path
from typing import TYPE_CHECKING

from bidsapp import __version__
from bidsapp.demo.dataset import Texts, claim, write_image, write_texts
from bidsapp.demo.people import (
    CONTROL,
    PATIENT,
    SEX,
    SIDE,
    SITE,
    SITES,
    Person,
    acquisition,
    person,
)
from bidsapp.score import TRUTH_FOLDER, TRUTH_NAME

if TYPE_CHECKING:
    from models.phantom import HeadModel, Scan

REGIONS = ("Hippocampus_L", "Hippocampus_R", "Amygdala_L", "Amygdala_R")
EXAGGERATED = 0.25  # Alzheimer's dementia takes about a fifth of the hippocampus

AGE_UNKNOWN = 5
WITHOUT_T1W = "noT1w"

PARTICIPANT_COLUMNS = {
    "diagnosis": {
        "Description": "Group",
        "Levels": {
            PATIENT: "Simulated patient: hippocampus and amygdala atrophied",
            CONTROL: "Simulated control",
        },
    },
    "age": {"Description": "Age at the first session", "Units": "year"},
    "sex": SEX,
    "side": SIDE,
    "site": SITE,
}

BRAIN_TRUTH = {"Description": "The simulated brain", "Type": "Brain"}
EFFECT_TRUTH = {
    "Description": (
        "Voxels turned CSF-like: the most changed ones, as many as make up the volume lost"
    ),
    "Type": "ROI",
}

README = """\
# BrainWhy demo

Synthetic heads, no human data: every scan is a warp of one brain template
(ICBM 152 Nonlinear Asymmetric 2009c, (c) 1993-2009 Louis Collins, McConnell Brain Imaging
Centre, Montreal Neurological Institute, McGill University) inside a made-up skull and scalp.
{participants} people, {voxel:g} mm voxels, seed {seed}.

Patients ({patient}) differ from controls ({control}) in one thing: the outer {percent:.0f} % of the
volume of hippocampus and amygdala (AAL atlas, both sides) is turned into CSF-like signal.
{strength}

What was changed where is in `derivatives/truth`. Age widens the ventricles in both groups alike.
As real data are: two people have two sessions, one has no T1w image, one has no age, images are
stored in different orientations, and two sites differ in noise and receive field. None of this
depends on the group. Made by `brainwhy-demo make` {version}.
"""
TRUTH_README = f"""\
# What was changed in the demo, and where

`sub-*`: the brain, and in patients the changed voxels, on the grid of each raw image.
`{TRUTH_NAME}`: hippocampus and amygdala in template space, whole, also where only
their outer part was changed; `brainwhy-demo score` holds maps against it.
"""
SHORT = {"null": "no effect", "mild": "mild effect", "exaggerated": "exaggerated effect"}
STRENGTHS = {
    "null": "The two groups come from the same distribution: nothing is there to be found.",
    "mild": "This is in the range of what is seen in Alzheimer's dementia.",
    "exaggerated": (
        "**The effect is exaggerated** (Alzheimer's dementia takes about a fifth), so that 24\n"
        "people at a coarse resolution are enough to learn from."
    ),
}


def make(
    target: Path,
    *,
    participants: int = 24,
    resolution: float = 3.0,
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
        People with a T1w image, patients and controls in turn; one without is added.
    resolution : float
        Voxel edge in mm.
    effect : float
        Share of hippocampus and amygdala that patients have lost (0: a null dataset).
    seed : int
        Settles everything; person k is the same in cohorts of any size.

    Raises
    ------
    InputError
        If the folder cannot be used.
    """
    from tqdm import tqdm

    claim(target, force)
    people = [person(index, seed) for index in range(participants)]
    extra = _person_without_t1w(seed)
    write_texts(target, _texts([*people, extra], effect, resolution, seed))
    for who in people:
        if len(who.sessions) > 1:
            _write_sessions(target, who)
    model = _head(target, effect, resolution)
    scans = [(who, session) for who in people for session in who.sessions]
    for who, session in tqdm(scans, desc="brainwhy-demo make", unit="scan", disable=None):
        _write_t1w(target, model, who, session, resolution, seed)
    _write_flair(target, model, extra, 2 * resolution, seed)


def _person_without_t1w(seed: int) -> Person:
    """One more control, who has only a FLAIR: apps must say so and go on."""
    from dataclasses import replace

    return replace(
        person(100_001, seed), label=WITHOUT_T1W, site="north", axcodes="RAS", sex="F", age=70
    )


def _head(target: Path, effect: float, resolution: float) -> "HeadModel":
    """Build the head model, and write the truth in template space on the way."""
    import nibabel as nib
    import numpy as np

    from models.phantom import head_model
    from pipelines.atlases import atlas, on_grid, template

    brain = nib.Nifti1Image.from_filename(template())
    aal = atlas("AAL")
    names = aal.labels.set_index("name")["index"]
    labels = [int(names[region]) for region in REGIONS]
    x, y, z = brain.shape
    label_map = on_grid(aal, brain.affine, (x, y, z))
    label_map[np.asanyarray(brain.dataobj) == 0] = 0
    truth = np.isin(label_map, labels).astype(np.uint8)
    write_image(
        target / TRUTH_FOLDER / TRUTH_NAME,
        nib.Nifti1Image(truth, brain.affine),
        {
            "Description": (
                "Hippocampus and amygdala (AAL, both sides), resampled to the template by "
                f"nearest neighbour: the region whose outer {effect:.0%} is changed in patients"
            ),
            "Type": "ROI",
            "Regions": REGIONS,
            "Effect": effect,
            "AffectedGroup": PATIENT,
        },
    )
    return head_model(brain, label_map, labels, effect=effect, voxel_mm=resolution)


def _write_t1w(
    target: Path, model: "HeadModel", who: Person, session: str, resolution: float, seed: int
) -> None:
    """Write one raw T1w image with its truth on the same grid."""
    from pipelines.derivatives import relative_path

    scan = _scan(model, who, session, resolution, seed, "T1w")
    raw = relative_path("T1w", ".nii.gz", who.entities(session))
    write_image(target / raw, scan.image, acquisition(who))
    truths = [({"desc": "brain"}, scan.brain, BRAIN_TRUTH)]
    if who.is_patient:
        truths.append(({"label": "effect"}, scan.altered, EFFECT_TRUTH))
    for entities, image, sidecar in truths:
        path = relative_path("mask", ".nii.gz", {**who.entities(session), **entities})
        write_image(
            target / TRUTH_FOLDER / path, image, {**sidecar, "Sources": [f"bids:raw:{raw}"]}
        )


def _write_flair(
    target: Path, model: "HeadModel", who: Person, resolution: float, seed: int
) -> None:
    from pipelines.derivatives import relative_path

    scan = _scan(model, who, "", resolution, seed, "FLAIR")
    path = target / relative_path("FLAIR", ".nii.gz", who.entities(""))
    write_image(path, scan.image, acquisition(who))


def _scan(
    model: "HeadModel", who: Person, session: str, resolution: float, seed: int, contrast: str
) -> "Scan":
    from models.phantom import Scanner, person_seed, simulate

    return simulate(
        model,
        person_seed(seed, who.index),
        session=int(session or 1),
        patient=who.is_patient,
        age=who.age + int(session or 1) - 1,
        voxel_mm=resolution,
        scanner=Scanner(**SITES[who.site]["scanner"]),
        axcodes=who.axcodes,
        contrast=contrast,
    )


def _texts(people: list[Person], effect: float, resolution: float, seed: int) -> Texts:
    strength = _strength(effect)
    return Texts(
        name=f"BrainWhy demo: synthetic T1w heads, {SHORT[strength]}",
        readme=README.format(
            participants=len(people) - 1,
            voxel=resolution,
            seed=seed,
            patient=PATIENT,
            control=CONTROL,
            percent=100 * effect,
            strength=STRENGTHS[strength],
            version=__version__,
        ),
        truth_readme=TRUTH_README,
        columns=PARTICIPANT_COLUMNS,
        rows=[_row(who) for who in people],
    )


def _row(who: Person) -> dict[str, str]:
    unknown = {"age": "n/a"} if who.index == AGE_UNKNOWN else {}
    return who.row(PARTICIPANT_COLUMNS) | unknown


def _strength(effect: float) -> str:
    if effect == 0:
        return "null"
    return "exaggerated" if effect > EXAGGERATED else "mild"


def _write_sessions(target: Path, who: Person) -> None:
    """Write the sessions.tsv of one person; the second session is a year later."""
    import pandas as pd

    from pipelines.derivatives import sidecar_path, write_json, write_table

    ages = {f"ses-{session}": who.age + later for later, session in enumerate(who.sessions)}
    table = target / f"sub-{who.label}" / f"sub-{who.label}_sessions.tsv"
    write_table(table, pd.DataFrame({"session_id": ages.keys(), "age": ages.values()}))
    write_json(sidecar_path(table), {"age": {"Description": "Age", "Units": "year"}})
