"""The demo of anomaly detection: ``brainwhy-demo make --modality anomaly``.

Maps of diffusivity and anisotropy in template space, as another pipeline would have left them: a
BIDS derivative dataset without raw images.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidsapp import __version__
from bidsapp.demo.dataset import Texts, claim, write_image, write_texts
from bidsapp.score import TRUTH_FOLDER, TRUTH_NAME

if TYPE_CHECKING:
    from models.phantom_maps import Maps, MapsModel

PATIENT, CONTROL = "PD", "HC"
REGIONS = tuple(
    f"{name}_{side}" for name in ("Putamen", "Caudate", "Thalamus") for side in ("L", "R")
)
PARTICIPANT_COLUMNS: dict[str, Any] = {
    "diagnosis": {
        "Description": "Group",
        "Levels": {
            PATIENT: "Simulated patient: small spheres in the deep nuclei are changed",
            CONTROL: "Simulated control",
        },
    },
    "age": {"Description": "Age; a little more diffusivity with it", "Units": "year"},
    "sex": {
        "Description": "Sex (changes nothing in the maps)",
        "Levels": {"F": "female", "M": "male"},
    },
}

README = """\
# BrainWhy demo of anomaly detection

Synthetic maps of mean diffusivity (MD, mm2/s) and fractional anisotropy (FA), no human data: every
map is a warp of one brain template (ICBM 152 Nonlinear Asymmetric 2009c, (c) 1993-2009 Louis
Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University).
{participants} people, {voxel:g} mm voxels, seed {seed}; in template space, as another pipeline
would have left them. One of three is a patient ({patient}), the others are controls ({control}).

In patients, {foci} spheres of {radius:g} mm radius at random places of putamen, caudate, thalamus
(AAL atlas, both sides) have lost {percent:.0f} % of FA and gained {gain:.2g} mm2/s of MD in their
middle; nothing else differs between the groups.{strength}
What was changed in whom is in `derivatives/truth`. Made by `brainwhy-demo make` {version}.
"""
EXAGGERATED = " **This is exaggerated**: no such lesion is known of Parkinson's disease."
TRUTH_README = f"""\
# What was changed in the demo, and where

`sub-*`: the changed voxels of each patient. `{TRUTH_NAME}`: putamen, caudate and
thalamus, where the spheres have their middles.
"""


def make(
    target: Path,
    *,
    participants: int = 44,
    resolution: float = 3.0,
    effect: float = 0.6,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Write the maps of a cohort with their truth: two controls for each patient.

    Parameters
    ----------
    target : Path
        New or empty folder; with ``force`` an earlier demo is replaced.
    participants : int
    resolution : float
        Voxel edge in mm.
    effect : float
        Share of FA lost in the middle of the changed spheres (0: a null dataset).
    seed : int
        Settles everything; person k is the same in cohorts of any size.

    Raises
    ------
    models.errors.InputError
        The folder cannot be used.
    """
    from tqdm import tqdm

    claim(target, force)
    people = [person(index, seed) for index in range(participants)]
    write_texts(target, _texts(people, effect, resolution, seed))
    model = _model(target, effect, resolution)
    bar = tqdm(people, desc="brainwhy-demo make", unit="person", disable=None)
    for index, row in enumerate(bar):
        _write_person(target, model, index, row, seed)


def person(index: int, seed: int) -> dict[str, str]:
    """Row of participants.tsv: every third is a patient; age and sex do not depend on it."""
    from models.phantom import person_seed, stream

    age = stream(person_seed(seed, index), 3).normal(62.0, 8.0)
    return {
        "participant_id": f"sub-{index + 1:02d}",
        "diagnosis": PATIENT if index % 3 == 0 else CONTROL,
        "age": str(round(min(max(age, 40.0), 85.0))),
        "sex": "FM"[index // 3 % 2],
    }


def _model(target: Path, effect: float, resolution: float) -> "MapsModel":
    """Build the maps, and write the truth in template space on the way."""
    import nibabel as nib
    import numpy as np

    from models.grids import full_grid
    from models.phantom_maps import maps_model
    from pipelines.atlases import atlas, on_grid, template

    brain, aal = nib.Nifti1Image.from_filename(template()), atlas("AAL")
    names = aal.labels.set_index("name")["index"]
    grid = full_grid(resolution)
    chosen = [int(names[region]) for region in REGIONS]
    region = np.isin(on_grid(aal, grid.affine, grid.shape), chosen)
    model = maps_model(brain, region, grid, effect)
    write_image(
        target / TRUTH_FOLDER / TRUTH_NAME,
        nib.Nifti1Image(model.region.astype(np.uint8), grid.affine),
        {
            "Description": "Where changed spheres have their middles",
            "Type": "ROI",
            "Regions": REGIONS,
            "Effect": effect,
            "AffectedGroup": PATIENT,
        },
    )
    return model


def _write_person(
    target: Path, model: "MapsModel", index: int, row: dict[str, str], seed: int
) -> None:
    """Write both maps of one person, and what is altered in a patient."""
    from models.phantom import person_seed
    from models.phantom_maps import simulate_maps

    patient = row["diagnosis"] == PATIENT
    maps = simulate_maps(model, person_seed(seed, index), patient=patient, age=float(row["age"]))
    _write_maps(target, model, row["participant_id"].removeprefix("sub-"), maps, patient)


def _write_maps(target: Path, model: "MapsModel", label: str, maps: "Maps", patient: bool) -> None:
    import nibabel as nib
    import numpy as np

    from pipelines.derivatives import SPACE, grid_sidecar, relative_path

    ids = {"sub": label, "space": SPACE, "res": model.grid.name}
    what = {"SkullStripped": True, **grid_sidecar(model.grid)}
    for name, values, unit in (("md", maps.md, "mm^2/s"), ("fa", maps.fa, "unitless")):
        path = relative_path("dwimap", ".nii.gz", {**ids, "model": "tensor", "param": name})
        write_image(
            target / path, nib.Nifti1Image(values, model.grid.affine), {"Units": unit, **what}
        )
    if patient:
        path = relative_path("mask", ".nii.gz", {**ids, "label": "effect"}, datatype="dwi")
        write_image(
            target / TRUTH_FOLDER / path,
            nib.Nifti1Image(maps.altered.astype(np.uint8), model.grid.affine),
            {"Description": "Voxels changed by half or more", "Type": "ROI", **what},
        )


def _texts(people: list[dict[str, str]], effect: float, resolution: float, seed: int) -> Texts:
    from models.phantom_maps import FOCI, RADIUS_MM

    return Texts(
        name=f"BrainWhy demo: synthetic MD and FA, effect {effect:g}",
        kind="derivative",
        readme=README.format(
            participants=len(people),
            voxel=resolution,
            seed=seed,
            patient=PATIENT,
            control=CONTROL,
            foci=FOCI,
            radius=RADIUS_MM,
            percent=100 * effect,
            gain=1.5e-3 * effect,
            strength=EXAGGERATED if effect else " That is nothing: the groups do not differ.",
            version=__version__,
        ),
        truth_readme=TRUTH_README,
        columns=PARTICIPANT_COLUMNS,
        rows=people,
        ignored="*_dwimap.*\n",
        truth_ignored="/space-*\n*_mask.*\n",
    )
