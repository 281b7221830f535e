"""Synthetic data with known truth: ``brainwhy-demo make`` and ``brainwhy-demo score``.

Imports nothing heavy at the top, so that ``--help`` answers at once.
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bidsapp import __version__
from bidsapp.score import (
    TRUTH_FOLDER,
    TRUTH_NAME,
    complain,
    explain_failures,
    finite,
    score,
    score_table,
)
from models.errors import InputError

if TYPE_CHECKING:
    import nibabel as nib

    from models.phantom import HeadModel, Scan

# Modality -> the module that makes its demo, and how many people there have no such image.
MODALITIES = {
    "T1w": ("bidsapp.demo", 1),
    "anomaly": ("bidsapp.demo_maps", 0),
    "FLAIR": ("bidsapp.demo_flair", 0),
    "dwi": ("bidsapp.demo_dwi", 0),
    "spect": ("bidsapp.demo_spect", 0),
}
# Modality in the truth -> the module that scores its demo; of the others `bidsapp.score` does.
SCORES = {"FLAIR": "bidsapp.score_flair", "spect": "bidsapp.score_spect"}
UNUSABLE = 64  # exit code: command line or folder unusable, nothing done
BIDS_VERSION = "1.11.1"
PATIENT, CONTROL = "AD", "CN"
REGIONS = ("Hippocampus_L", "Hippocampus_R", "Amygdala_L", "Amygdala_R")
EXAGGERATED = 0.25  # Alzheimer's dementia takes about a fifth of the hippocampus

# Sites differ in noise, receive field and gain (models.phantom.Scanner) and in their sidecars.
SITES: dict[str, dict[str, Any]] = {
    "north": {
        "scanner": {"noise": 0.02, "bias": 0.14, "gain": 8.0},
        "sidecar": {"MagneticFieldStrength": 3, "Manufacturer": "Simulated", "StationName": "N"},
    },
    "south": {
        "scanner": {"noise": 0.03, "bias": 0.08, "gain": 5.0},
        "sidecar": {"MagneticFieldStrength": 1.5, "Manufacturer": "Simulated", "StationName": "S"},
    },
}
STORAGE = ("RAS", "LAS", "LPS")
TWICE_SCANNED = (2, 3)  # a patient and a control with ses-1 and ses-2
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
    "sex": {
        "Description": "Sex (changes nothing in the images)",
        "Levels": {"F": "female", "M": "male"},
    },
    "side": {
        "Description": "Side of onset (changes nothing in the images)",
        "Levels": {"L": "left", "R": "right", "n/a": "controls"},
    },
    "site": {
        "Description": "Simulated scanner",
        "Levels": {"north": "3 T, less noise", "south": "1.5 T, more noise"},
    },
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
STRENGTHS = {
    "null": "The two groups come from the same distribution: nothing is there to be found.",
    "mild": "This is in the range of what is seen in Alzheimer's dementia.",
    "exaggerated": (
        "**The effect is exaggerated** (Alzheimer's dementia takes about a fifth), so that 24\n"
        "people at a coarse resolution are enough to learn from."
    ),
}


@dataclass(frozen=True)
class Person:
    """One simulated participant; ``index`` settles everything, whatever the cohort's size."""

    index: int
    label: str
    diagnosis: str
    age: int
    sex: str
    side: str
    site: str
    axcodes: str
    sessions: tuple[str, ...]  # labels; ("",) where the dataset has no session level

    @property
    def is_patient(self) -> bool:
        """Whether the true change was made."""
        return self.diagnosis == PATIENT

    def row(self) -> dict[str, str]:
        """Return the line of participants.tsv."""
        age = "n/a" if self.index == AGE_UNKNOWN else str(self.age)
        columns = {name: str(getattr(self, name)) for name in PARTICIPANT_COLUMNS}
        return {"participant_id": f"sub-{self.label}", **columns, "age": age}

    def entities(self, session: str) -> dict[str, str]:
        """Return the BIDS entities of an image."""
        return {"sub": self.label, "ses": session}


def person(index: int, seed: int) -> Person:
    """Draw participant ``index``: even indices are patients, odd ones their matched controls.

    The two of a pair share site, sex, storage orientation and (within a year or two) age, so
    that no group difference but the effect can arise, in any even number of people.
    """
    from models.phantom import person_seed, stream

    pair = index // 2
    pair_age = stream(person_seed(seed, 2 * pair), 3).normal(72.0, 7.0)
    jitter = stream(person_seed(seed, index), 4).uniform(-1.5, 1.5)
    patient = index % 2 == 0
    return Person(
        index=index,
        label=f"{index + 1:02d}",
        diagnosis=PATIENT if patient else CONTROL,
        age=round(min(max(pair_age, 55.0), 90.0) + jitter),
        sex="FM"[pair // 2 % 2],
        side="LR"[(pair + pair // 2) % 2] if patient else "n/a",
        site=list(SITES)[pair % 2],
        axcodes=STORAGE[pair % len(STORAGE)],
        sessions=("1", "2") if index in TWICE_SCANNED else ("",),
    )


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
    _write_texts(target, [*people, extra], effect, resolution, seed)
    model = _head(target, effect, resolution)
    scans = [(who, session) for who in people for session in who.sessions]
    for who, session in tqdm(scans, desc="brainwhy-demo make", unit="scan", disable=None):
        _write_t1w(target, model, who, session, resolution, seed)
    _write_flair(target, model, extra, 2 * resolution, seed)


def claim(target: Path, force: bool) -> None:
    """Make ``target`` an empty or emptied folder; only an earlier demo is ever removed."""
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file: give a folder to write the demo dataset to.")
    if target.is_dir() and any(target.iterdir()):
        if not force:
            raise InputError(
                f"{target} is not empty: give another folder, or --force to replace a demo there."
            )
        if not _is_demo(target):
            raise InputError(f"{target} holds no BrainWhy demo, so --force does not touch it.")
        made = (TRUTH_FOLDER, Path("derivatives/lesions"))
        for folder in (*target.glob("sub-*"), *(target / one for one in made)):
            shutil.rmtree(folder, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)


def _is_demo(target: Path) -> bool:
    try:
        description = json.loads((target / "dataset_description.json").read_text())
        return any(tool["Name"] == "brainwhy-demo" for tool in description["GeneratedBy"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


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
    write_image(target / raw, scan.image, _acquisition(who))
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
    write_image(path, scan.image, _acquisition(who))


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


def _acquisition(who: Person) -> dict[str, Any]:
    return {"Modality": "MR", **SITES[who.site]["sidecar"], "PulseSequenceType": "Simulated"}


def _write_texts(
    target: Path, people: list[Person], effect: float, resolution: float, seed: int
) -> None:
    """Write everything that is not an image; the description first, it marks the demo."""
    import pandas as pd

    from pipelines.derivatives import write_json, write_table, write_text

    write_json(target / "dataset_description.json", _raw_description(effect))
    write_text(
        target / "README",
        README.format(
            participants=len(people) - 1,
            voxel=resolution,
            seed=seed,
            patient=PATIENT,
            control=CONTROL,
            percent=100 * effect,
            strength=STRENGTHS[_strength(effect)],
            version=__version__,
        ),
    )
    write_table(target / "participants.tsv", pd.DataFrame([who.row() for who in people]))
    write_json(target / "participants.json", PARTICIPANT_COLUMNS)
    for who in people:
        if len(who.sessions) > 1:
            _write_sessions(target, who)
    truth = target / TRUTH_FOLDER
    write_json(truth / "dataset_description.json", truth_description())
    write_text(truth / "README", TRUTH_README)
    write_text(truth / ".bidsignore", "/space-*\n")


def _strength(effect: float) -> str:
    if effect == 0:
        return "null"
    return "exaggerated" if effect > EXAGGERATED else "mild"


def _raw_description(effect: float) -> dict[str, Any]:
    label = {"null": "no effect", "mild": "mild effect", "exaggerated": "exaggerated effect"}
    return {
        "Name": f"BrainWhy demo: synthetic T1w heads, {label[_strength(effect)]}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "License": "Terms of the ICBM 152 template, see README",
        "GeneratedBy": [{"Name": "brainwhy-demo", "Version": __version__}],
    }


def truth_description() -> dict[str, Any]:
    """Return the description of the truth, a derivative of the demo."""
    return {
        "Name": "BrainWhy demo: what was changed, and where",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "brainwhy-demo", "Version": __version__}],
        "DatasetLinks": {"raw": "../.."},
    }


def _write_sessions(target: Path, who: Person) -> None:
    """Write the sessions.tsv of one person; the second session is a year later."""
    import pandas as pd

    from pipelines.derivatives import sidecar_path, write_json, write_table

    ages = {f"ses-{session}": who.age + later for later, session in enumerate(who.sessions)}
    table = target / f"sub-{who.label}" / f"sub-{who.label}_sessions.tsv"
    write_table(table, pd.DataFrame({"session_id": ages.keys(), "age": ages.values()}))
    write_json(sidecar_path(table), {"age": {"Description": "Age", "Units": "year"}})


def write_image(path: Path, image: "nib.Nifti1Image", sidecar: dict[str, Any]) -> None:
    """Write an image with its sidecar."""
    from pipelines.derivatives import sidecar_path, write_json

    path.parent.mkdir(parents=True, exist_ok=True)
    image.to_filename(path)
    write_json(sidecar_path(path), sidecar)


class _Parser(argparse.ArgumentParser):
    """Leaves with 64, not argparse's 2, when the command line is unusable."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(UNUSABLE, f"{self.prog}: {message}\n")


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _modality(text: str) -> str:
    for name in MODALITIES:
        if name.lower() == text.lower():
            return name
    raise argparse.ArgumentTypeError(f"{text} is none of: {', '.join(MODALITIES)}")


def _people(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError("at least 2 people: one patient and one control")
    return value


def _millimetres(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 6:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 6 mm")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``brainwhy-demo``."""
    parser = _Parser(prog="brainwhy-demo", description="Synthetic brain scans with known truth.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{make,score}")
    _add_make(commands.add_parser("make", help="write a raw BIDS dataset and its truth"))
    _add_score(commands.add_parser("score", help="hold the results of a run against the truth"))
    return parser


def _add_make(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="new or empty folder")
    parser.add_argument(
        "--modality",
        type=_modality,
        default="T1w",
        metavar="|".join(MODALITIES),
        help="what is scanned (T1w)",
    )
    parser.add_argument(
        "--participants",
        type=_people,
        metavar="N",
        help="people with an image, patients and controls in turn (T1w, FLAIR: 24, anomaly: 44, "
        "spect: 48, dwi: 20)",
    )
    parser.add_argument(
        "--resolution", type=_millimetres, metavar="MM", help="voxel edge (3; spect, dwi: 4)"
    )
    parser.add_argument(
        "--effect",
        type=_share,
        metavar="SHARE",
        help="share of hippocampus and amygdala (anomaly: of the anisotropy in small spheres of "
        "the deep nuclei; spect: of the binding of the affected putamen) lost by patients; FLAIR: "
        "their lesion load, 1 being 20 ml; 0: none (0.6); dwi: of what the README says (1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="settles everything (0)")
    parser.add_argument(
        "--force", action="store_true", help="replace a demo that is there; results in it stay"
    )


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="demo dataset, for its truth")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder of the group level")
    parser.add_argument("--model", metavar="LABEL", help="which model, where OUT holds several")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 64 when a requirement is not met"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")


def _run_make(args: argparse.Namespace) -> None:
    given = {
        name: getattr(args, name)
        for name in ("participants", "resolution", "effect")
        if getattr(args, name) is not None
    }
    module, without = MODALITIES[args.modality]
    import_module(module).make(args.dir, seed=args.seed, force=args.force, **given)
    people = len(list(args.dir.glob("sub-*"))) - without
    said = f"{people} people with a {args.modality} image"
    sys.stdout.write(f"{args.dir}: {said}{f', {without} without' if without else ''}\n")


def _run_score(args: argparse.Namespace) -> None:
    table, scores = _scored(args)
    if args.json:
        from pipelines.derivatives import write_json

        write_json(args.json, finite(scores))
    sys.stdout.write(table)
    if args.strict and not all(scores["requirements"].values()):
        raise InputError("--strict: not all requirements are met")


def _scored(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The scores of a demo, and how they are laid out: by what was scanned."""
    own = SCORES.get(_scanned(args.dir))
    if own:
        module = import_module(own)
        scores = module.score(args.dir, args.out)
        return module.score_table(scores), scores
    scores = score(args.dir, args.out, args.model)
    explain_failures(scores)
    return score_table(scores), scores


def _scanned(dataset: Path) -> str:
    """The modality of a demo with scores of its own, by its truth."""
    from pipelines.derivatives import read_sidecar

    return str(read_sidecar(dataset / TRUTH_FOLDER / TRUTH_NAME).get("Modality", ""))


COMMANDS = {"make": _run_make, "score": _run_score}


def main(argv: list[str] | None = None) -> int:
    """Run ``brainwhy-demo``; return 0, or 64 when the command line or a folder is unusable."""
    args = build_parser().parse_args(argv)
    try:
        COMMANDS[args.command](args)
    except (InputError, OSError) as error:
        complain(str(error))
        return UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
