"""The demo of diffusion: ``brainwhy-demo make --modality dwi``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bidsapp import __version__
from bidsapp.demo.dataset import Texts, claim, write_image, write_texts
from bidsapp.demo.people import SEX, SIDE, SITE, SITES, Person, acquisition, person
from bidsapp.score import TRUTH_FOLDER, TRUTH_NAME

if TYPE_CHECKING:
    import nibabel as nib
    import numpy as np

    from models.diffusion_phantom import Change
    from models.phantom import HeadModel

PATIENT, CONTROL = "PD", "HC"
DIRECTIONS, B_VALUE = 12, 1000.0
# Where white matter is changed in patients, both sides alike (mm), and by how much at effect 1.
# The groups are to make about 1 % of the variance between tensors: with a tenth of that, 20 people
# are learnt by heart.
LOCAL_MM, LOCAL_RADIUS_MM = ((-29.0, -46.0, 30.0), (29.0, -46.0, 30.0)), 20.0
LOCAL_MD, LOCAL_FA = 0.3, -0.6
# Where left and right differ: by ASYMMETRY at effect 1 one way in patients, the other in controls,
# within SPREAD (SD) that both sides share.
SIDES_MM, SIDES_RADIUS_MM = ((-25.0, 32.0, 10.0), (25.0, 32.0, 10.0)), 18.0
ASYMMETRY, SPREAD = 0.15, 0.3
ASYMMETRY_NAME = TRUTH_NAME.replace("label-effect", "label-asymmetry")

PARTICIPANT_COLUMNS = {
    "diagnosis": {
        "Description": "Group",
        "Levels": {
            PATIENT: "Simulated patient: white matter changed",
            CONTROL: "Simulated control",
        },
    },
    "age": {"Description": "Age (widens the ventricles)", "Units": "year"},
    "sex": SEX,
    "side": SIDE,
    "site": SITE,
}
README = """\
# BrainWhy demo of diffusion

Synthetic heads, no human data: every scan is a warp of one brain template
(ICBM 152 Nonlinear Asymmetric 2009c, (c) 1993-2009 Louis Collins, McConnell Brain Imaging
Centre, Montreal Neurological Institute, McGill University) inside a made-up skull and scalp, with
invented fibres. {participants} people with a T1w image, its skull taken off, and a diffusion series
of one b0 and {directions} directions at b = {b_value:g} s/mm2, {voxel:g} mm voxels, seed {seed}.

Patients ({patient}) differ from controls ({control}) in two things:

- local: in two balls of {radius:g} mm radius in the white matter, mean diffusivity is
  {md:+.0f} % and anisotropy {fa:+.0f} %;
- not local: in two other balls, anisotropy is {shift:.0f} % higher on the left and lower on the
  right in patients, and the reverse in controls. Both sides of a person share a larger difference
  from other people (SD {spread:.0f} %), so that one side alone tells little, both together a lot.
{strength}
`derivatives/truth` holds both places in template space. Made by `brainwhy-demo make` {version}.
"""
STRENGTH = "\n**Both effects are exaggerated**, so that few people are enough to learn from.\n"
TRUTH_README = f"""\
# What was changed in the demo, and where

`sub-*`: the brain on the grid of each raw diffusion series.
`{TRUTH_NAME}`: white matter whose diffusivity is changed.
`{ASYMMETRY_NAME}`: white matter whose sides differ.
"""


@dataclass(frozen=True)
class Places:
    """Where white matter is changed, shares (x, y, z) of the head model's voxels."""

    local: "np.ndarray"
    left: "np.ndarray"
    right: "np.ndarray"


def make(
    target: Path,
    *,
    participants: int = 20,
    resolution: float = 5.0,
    effect: float = 1.0,
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
        Size of both changes: 1 is what the README says, 0 is a null dataset.
    seed : int
        Settles everything; person k is the same in cohorts of any size.

    Raises
    ------
    InputError
        If the folder cannot be used.
    """
    from tqdm import tqdm

    claim(target, force)
    people = [_someone(index, seed) for index in range(participants)]
    write_texts(target, _texts(people, effect, resolution, seed))
    model = _head(resolution)
    places = _places(model)
    for who in tqdm(people, desc="brainwhy-demo make", unit="person", disable=None):
        _write_person(target, model, places, who, effect, resolution, seed)
    _write_truth(target, model, places)


def _someone(index: int, seed: int) -> Person:
    """Participant ``index`` of the T1w demo with another diagnosis and one session."""
    one = person(index, seed)
    return replace(one, diagnosis=PATIENT if one.is_patient else CONTROL, sessions=("",))


def _head(resolution: float) -> "HeadModel":
    import nibabel as nib
    import numpy as np

    from models.phantom import head_model
    from pipelines.atlases import template

    brain = nib.Nifti1Image.from_filename(template())
    return head_model(brain, np.zeros(brain.shape, np.int16), [], effect=0.0, voxel_mm=resolution)


def _places(model: "HeadModel") -> Places:
    import numpy as np

    points = model.canvas.points_mm()

    def ball(centre: tuple[float, float, float], radius: float) -> "np.ndarray":
        away = np.linalg.norm(points - np.reshape(centre, (3, 1, 1, 1)), axis=0)
        return np.clip(radius - away + 0.5, 0, 1).astype(np.float32)

    local = sum(ball(centre, LOCAL_RADIUS_MM) for centre in LOCAL_MM)
    left, right = (ball(centre, SIDES_RADIUS_MM) for centre in SIDES_MM)
    return Places(np.asarray(local), left, right)


def changes_of(
    who: Person, places: Places, local: float, asymmetry: float, seed: int
) -> list["Change"]:
    """What of this person's white matter is altered, by the size of either effect."""
    from models.diffusion_phantom import Change
    from models.phantom import person_seed, stream

    patient = who.diagnosis == PATIENT
    shared = float(stream(person_seed(seed, who.index), 6).normal(0.0, SPREAD))
    shared = min(max(min(asymmetry, 1.0) * shared, -0.6), 0.4)
    aside = asymmetry * ASYMMETRY * (1 if patient else -1)
    found = [Change(places.left, fa=shared + aside), Change(places.right, fa=shared - aside)]
    if patient:
        found.append(Change(places.local, md=local * LOCAL_MD, fa=local * LOCAL_FA))
    return found


def _write_person(
    target: Path,
    model: "HeadModel",
    places: Places,
    who: Person,
    effect: float,
    resolution: float,
    seed: int,
) -> None:
    """Write both raw images of one person, the gradient table and the brain."""
    from models.diffusion_phantom import simulate_diffusion, table_of
    from models.phantom import Scanner, person_seed, simulate
    from pipelines.derivatives import relative_path
    from pipelines.gradient_files import write_fsl

    shared: dict[str, Any] = {
        "age": float(who.age),
        "voxel_mm": resolution,
        "scanner": Scanner(**SITES[who.site]["scanner"]),
        "axcodes": who.axcodes,
    }
    ids, own = {"sub": who.label}, person_seed(seed, who.index)
    table = table_of(DIRECTIONS, B_VALUE)
    scan = simulate_diffusion(
        model, own, table=table, changes=changes_of(who, places, effect, effect, seed), **shared
    )
    raw = relative_path("dwi", ".nii.gz", ids)
    said = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05}
    write_image(target / raw, scan.image, acquisition(who) | said)
    stem = str(target / raw).removesuffix(".nii.gz")
    write_fsl(table, scan.image.affine, Path(f"{stem}.bval"), Path(f"{stem}.bvec"))
    t1w = simulate(model, own, patient=False, session=2, **shared)
    bare = without_skull(t1w.image, t1w.brain)
    write_image(target / relative_path("T1w", ".nii.gz", ids), bare, acquisition(who))
    brain = {"Description": "The simulated brain", "Type": "Brain", "Sources": [f"bids:raw:{raw}"]}
    mask = relative_path("mask", ".nii.gz", {**ids, "desc": "brain"}, datatype="dwi")
    write_image(target / TRUTH_FOLDER / mask, scan.brain, brain)


def without_skull(image: "nib.Nifti1Image", brain: "nib.Nifti1Image") -> "nib.Nifti1Image":
    """An image that is 0 outside the brain: extraction, which other demos show, takes seconds."""
    import nibabel as nib
    import numpy as np

    data = np.asarray(image.dataobj)
    inside = np.asarray(brain.dataobj) > 0
    bare = nib.Nifti1Image(np.where(inside, data, 0).astype(data.dtype), image.affine)
    bare.header.set_xyzt_units("mm")
    return bare


def _write_truth(target: Path, model: "HeadModel", places: Places) -> None:
    """Both places within white matter, in template space."""
    import nibabel as nib
    import numpy as np

    from models.diffusion_phantom import WHITE_SHARE, WHITE_SIGNAL

    white = np.interp(model.signal, WHITE_SIGNAL, WHITE_SHARE) * (model.brain > 0.5) > 0.5
    sides = places.left + places.right
    for name, place, words in (
        (TRUTH_NAME, places.local, "diffusivity and anisotropy are changed in patients"),
        (ASYMMETRY_NAME, sides, "left and right differ, the other way in patients"),
    ):
        write_image(
            target / TRUTH_FOLDER / name,
            nib.Nifti1Image(((place > 0.5) & white).astype(np.uint8), model.canvas.affine),
            {
                "Description": f"White matter whose {words}"
                if "diffusivity" in words
                else f"White matter where {words}",
                "Type": "ROI",
                "Modality": "dwi",
                "AffectedGroup": PATIENT,
            },
        )


def _texts(people: list[Person], effect: float, resolution: float, seed: int) -> Texts:
    return Texts(
        name="BrainWhy demo: synthetic diffusion and T1w heads",
        readme=README.format(
            participants=len(people),
            directions=DIRECTIONS,
            b_value=B_VALUE,
            voxel=resolution,
            seed=seed,
            patient=PATIENT,
            control=CONTROL,
            radius=LOCAL_RADIUS_MM,
            md=100 * effect * LOCAL_MD,
            fa=100 * effect * LOCAL_FA,
            shift=100 * effect * ASYMMETRY,
            spread=100 * min(effect, 1.0) * SPREAD,
            strength=STRENGTH if effect > 0.3 else "",
            version=__version__,
        ),
        truth_readme=TRUTH_README,
        columns=PARTICIPANT_COLUMNS,
        rows=[who.row(PARTICIPANT_COLUMNS) for who in people],
    )
