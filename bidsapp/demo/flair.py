"""The demo of FLAIR and multiple sclerosis: ``brainwhy-demo make --modality FLAIR``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bidsapp import __version__
from bidsapp.demo.dataset import (
    LESION_FOLDER,
    OF_RAW,
    Texts,
    claim,
    description,
    write_image,
    write_texts,
)
from bidsapp.demo.people import SEX, SITE, SITES, Person, acquisition, person
from bidsapp.score import TRUTH_FOLDER, TRUTH_NAME

if TYPE_CHECKING:
    import numpy as np

    from models.phantom import HeadModel, Scan

PATIENT, CONTROL = "MS", "HC"
LOAD_ML = 20.0  # median lesion load of a patient at effect 1
CONTROL_ML = 0.1  # of controls: a few people have a lesion of no meaning
SPREAD = 0.5  # SD of the logarithm of the load
YOUNGER = 30  # years than the people of the T1w demo
MASKS = "BrainWhy demo: lesion masks"
FREQUENT = 0.1  # share of patients with a lesion there, for the truth in template space

PARTICIPANT_COLUMNS = {
    "diagnosis": {
        "Description": "Group",
        "Levels": {
            PATIENT: "Simulated patient: white matter lesions",
            CONTROL: "Simulated control",
        },
    },
    "age": {"Description": "Age (changes next to nothing in the images)", "Units": "year"},
    "sex": SEX,
    "site": SITE,
}
README = """\
# BrainWhy demo of FLAIR

Synthetic heads, no human data: every scan is a warp of one brain template
(ICBM 152 Nonlinear Asymmetric 2009c, (c) 1993-2009 Louis Collins, McConnell Brain Imaging
Centre, Montreal Neurological Institute, McGill University) inside a made-up skull and scalp.
{participants} people with a FLAIR and a T1w image, {voxel:g} mm voxels, seed {seed}.

Patients ({patient}) differ from controls ({control}) in one thing: lesions in the white matter,
near the ventricles and mostly behind, bright in FLAIR and a little dark in T1w; {load:.1f} ml in
the median, where the patients of Eitel et al. 2019 had 5 ml and their controls 0.1 ml. {strength}

`derivatives/lesions` holds everybody's lesion mask, `derivatives/truth` where patients often have
lesions in template space. Made by `brainwhy-demo make` {version}.
"""
STRENGTH = """**The load
is exaggerated**, so that few people at a coarse resolution are enough to learn from."""
TRUTH_README = f"""\
# Where patients of the demo have lesions

`sub-*`: the brain on the grid of each raw FLAIR image.
`{TRUTH_NAME}`: where at least a tenth of the patients have a lesion, in template space.
"""


def make(
    target: Path,
    *,
    participants: int = 24,
    resolution: float = 3.0,
    effect: float = 0.6,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Write the demo dataset with its lesion masks and its truth.

    Parameters
    ----------
    target : Path
        New or empty folder; with ``force`` an earlier demo is replaced.
    participants : int
        People, patients and controls in turn.
    resolution : float
        Voxel edge in mm.
    effect : float
        Lesion load of patients: 1 stands for 20 ml in the median, 0 for that of controls.
    seed : int
        Settles everything; person k is the same in cohorts of any size.

    Raises
    ------
    InputError
        If the folder cannot be used.
    """
    import numpy as np
    from tqdm import tqdm

    from models.lesion_phantom import lesion_density

    claim(target, force)
    people = [_someone(index, seed) for index in range(participants)]
    write_texts(target, _texts(people, effect, resolution, seed))
    _describe_lesions(target)
    model = _head(resolution)
    density, often = lesion_density(model), np.zeros(model.canvas.shape)
    for who in tqdm(people, desc="brainwhy-demo make", unit="person", disable=None):
        lesions = _lesions(model, density, who, effect, seed)
        _write_person(target, model, lesions, who, resolution, seed)
        if who.diagnosis == PATIENT:
            often += lesions >= 0.5
    _write_truth(target, model, often >= FREQUENT * len(people) / 2)


def _someone(index: int, seed: int) -> Person:
    """Participant ``index`` of the T1w demo, younger and of another diagnosis."""
    one = person(index, seed)
    return replace(
        one,
        diagnosis=PATIENT if one.is_patient else CONTROL,
        age=one.age - YOUNGER,
        sessions=("",),
    )


def _head(resolution: float) -> "HeadModel":
    import nibabel as nib
    import numpy as np

    from models.phantom import head_model
    from pipelines.atlases import template

    brain = nib.Nifti1Image.from_filename(template())
    return head_model(brain, np.zeros(brain.shape, np.int16), [], effect=0.0, voxel_mm=resolution)


def _lesions(
    model: "HeadModel", density: "np.ndarray", who: Person, effect: float, seed: int
) -> "np.ndarray":
    """Share of each voxel of the model that is a lesion of this person."""
    import numpy as np

    from models.lesion_phantom import draw_lesions, lesion_share
    from models.phantom import person_seed, stream

    rng = stream(person_seed(seed, who.index), 5)
    median = max(effect * LOAD_ML, CONTROL_ML) if who.diagnosis == PATIENT else CONTROL_ML
    load_ml = median * float(np.exp(rng.normal(0.0, SPREAD)))
    few = median == CONTROL_ML and rng.uniform() < 0.5
    return lesion_share(model, [] if few else draw_lesions(density, model.canvas, rng, load_ml))


def _write_person(
    target: Path,
    model: "HeadModel",
    lesions: "np.ndarray",
    who: Person,
    resolution: float,
    seed: int,
) -> None:
    """Write the raw images of one person, the lesion mask and the brain."""
    from pipelines.derivatives import relative_path

    def place(suffix: str, **entities: str) -> str:
        return relative_path(suffix, ".nii.gz", {"sub": who.label, **entities})

    flair = _scan(model, lesions, who, resolution, seed, "FLAIR")
    raw, sources = place("FLAIR"), {"Sources": [f"bids:raw:{place('FLAIR')}"]}
    write_image(target / raw, flair.image, acquisition(who))
    mask = {"Description": "Lesions: voxels that are mostly lesion", "Type": "Lesion", **sources}
    write_image(target / LESION_FOLDER / place("mask", label="lesion"), flair.altered, mask)
    brain = {"Description": "The simulated brain", "Type": "Brain", **sources}
    write_image(target / TRUTH_FOLDER / place("mask", desc="brain"), flair.brain, brain)
    t1w = _scan(model, lesions, who, resolution, seed, "T1w")
    write_image(target / place("T1w"), t1w.image, acquisition(who))


def _scan(
    model: "HeadModel",
    lesions: "np.ndarray",
    who: Person,
    resolution: float,
    seed: int,
    contrast: str,
) -> "Scan":
    from models.phantom import Scanner, person_seed, simulate

    return simulate(
        model,
        person_seed(seed, who.index),
        patient=False,
        age=who.age,
        voxel_mm=resolution,
        session={"FLAIR": 1, "T1w": 2}[contrast],  # the head moved in between
        scanner=Scanner(**SITES[who.site]["scanner"]),
        axcodes=who.axcodes,
        contrast=contrast,
        lesions=lesions,
    )


def _write_truth(target: Path, model: "HeadModel", often: "np.ndarray") -> None:
    import nibabel as nib
    import numpy as np

    write_image(
        target / TRUTH_FOLDER / TRUTH_NAME,
        nib.Nifti1Image(often.astype(np.uint8), model.canvas.affine),
        {
            "Description": "Where at least a tenth of the patients have a lesion",
            "Type": "ROI",
            "Modality": "FLAIR",
            "AffectedGroup": PATIENT,
        },
    )


def _texts(people: list[Person], effect: float, resolution: float, seed: int) -> Texts:
    return Texts(
        name="BrainWhy demo: synthetic FLAIR and T1w heads with lesions",
        readme=README.format(
            participants=len(people),
            voxel=resolution,
            seed=seed,
            patient=PATIENT,
            control=CONTROL,
            load=max(effect * LOAD_ML, CONTROL_ML),
            strength=STRENGTH if effect * LOAD_ML > 5 else "",
            version=__version__,
        ),
        truth_readme=TRUTH_README,
        columns=PARTICIPANT_COLUMNS,
        rows=[who.row(PARTICIPANT_COLUMNS) for who in people],
    )


def _describe_lesions(target: Path) -> None:
    from pipelines.derivatives import write_json, write_text

    lesions, named = target / LESION_FOLDER, description(MASKS, "derivative")
    write_json(lesions / "dataset_description.json", named | OF_RAW)
    write_text(lesions / "README", "Lesion masks of the demo, on the grid of each FLAIR image.\n")
