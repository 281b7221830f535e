"""123I-FP-CIT SPECT: conform, affine to an FP-CIT template, reference region, binding, quality."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from models.errors import InputError
from models.grids import Grid, full_grid
from models.projections import CUTOFF_PER_CM
from models.uptake import mirrored
from models.volumes import scale_intensity, to_grid
from pipelines.atlases import template
from pipelines.derivatives import (
    SPACE,
    file_hash,
    filename,
    fingerprint,
    grid_sidecar,
    read_sidecar,
    relative_path,
)
from pipelines.images import read_nifti
from pipelines.inputs import Scan, metadata_of, unreadable_sidecar
from pipelines.interfaces.images import BrainMask, Conform
from pipelines.interfaces.nuclear import (
    ConformUptake,
    MeasureBinding,
    RegisterUptake,
    UptakeFigures,
)
from pipelines.interfaces.sink import SaveDerivatives
from pipelines.preprocess.modality import Modality

REVISION = 2  # raised when the same input would give other voxels
REGISTRATIONS = ("linear", "t1w")


@dataclass(frozen=True)
class SpectOptions:
    """What of the preprocessing a recipe or a flag may choose.

    Parameters
    ----------
    registration : {"linear", "t1w"}
        Affine to the FP-CIT template; or rigid to the person's T1w image and affine from there.
    resolution_mm : float
        Voxel size at which the template is used and the result stored.
    seed : int
        Of ANTs' sampling.
    template : str
        FP-CIT template in MNI space of the user's; "" for the one that is built.
    reference : {"brain", "occipital"}
        Reference region: the brain without what binds, or the occipital cortex.
    percentile : float
        Of the reference region's uptake, by which an image is scaled.
    putamen_ml, caudate_ml : float
        Hottest volume per side that counts for the binding ratio.
    cutoff_per_cm : float
        Of the Shepp-Logan filter, where raw projections are reconstructed.
    """

    registration: str = "linear"
    resolution_mm: float = 2.0
    seed: int = 1
    template: str = ""
    reference: str = "brain"
    percentile: float = 75.0
    putamen_ml: float = 10.0
    caudate_ml: float = 5.0
    cutoff_per_cm: float = CUTOFF_PER_CM

    def __post_init__(self) -> None:
        if self.registration not in REGISTRATIONS:
            raise InputError(
                f"[preprocessing] registration = '{self.registration}': SPECT images are "
                "registered 'linear' (to an FP-CIT template) or by the person's 't1w'"
            )
        if self.template and not Path(self.template).is_file():
            raise InputError(f"--spect-template {self.template}: there is no such file")

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], seed: int) -> "SpectOptions":
        """The recipe's ``[preprocessing]``; ANTs needs a seed above zero."""
        own = dict(preprocessing["spect"])
        if own["template"]:
            own["template"] = str(Path(own["template"]).absolute())
        return cls(preprocessing["registration"], preprocessing["resolution_mm"], seed + 1, **own)

    @property
    def ml(self) -> dict[str, float]:
        """Hottest volume per structure."""
        return {"caudate": self.caudate_ml, "putamen": self.putamen_ml}


def spect_paths(scan: Scan, options: SpectOptions) -> dict[str, str]:
    """Derivatives of one SPECT scan, by the name of the node output; paths below output_dir."""
    how, res = options.registration, full_grid(options.resolution_mm).name
    ids = scan.entities
    mni = {**ids, "space": SPACE, "res": res}
    warp = {**ids, "mode": "image", "res": res, "desc": how}
    figures = f"sub-{scan.participant}/figures/"

    def path(suffix: str, extension: str, entities: Mapping[str, str]) -> str:
        return relative_path(suffix, extension, entities, datatype="spect")

    def figure(desc: str) -> str:
        return figures + filename("spect", ".png", {**ids, "res": res, "desc": desc})

    return {
        "image": path("spect", ".nii.gz", {**ids, "desc": "preproc"}),
        "to_template": path("xfm", ".mat", {**warp, "from": "spect", "to": SPACE}),
        "to_native": path("xfm", ".mat", {**warp, "from": SPACE, "to": "spect"}),
        "registered": path("spect", ".nii.gz", {**mni, "desc": f"preproc{how.capitalize()}"}),
        "ratios": path("mimap", ".tsv", {**mni, "meas": "SBR", "atlas": "AAL", "desc": how}),
        "display_figure": figure(f"display{how.capitalize()}"),
        "registration_figure": figure(f"registration{how.capitalize()}"),
        "quality": path("qc", ".tsv", {**ids, "res": res, "desc": how}),
    }


def spect_fingerprint(scan: Scan, options: SpectOptions) -> str:
    """Hash of the raw voxels, what is known of them, the options and this workflow's revision."""
    t1w = _t1w(scan, options)
    made_of = [file_hash(path) for path in (scan.path, options.template, t1w and t1w.path) if path]
    return fingerprint("spect", REVISION, made_of, metadata_of(scan.path), asdict(options))


def _t1w(scan: Scan, options: SpectOptions) -> Scan | None:
    """The T1w image that the registration goes through, where there is one and it is asked for."""
    return scan.t1w if options.registration == "t1w" else None


def init_spect_wf(
    *,
    name: str,
    scan: Scan,
    output_dir: Path,
    template: Path,
    options: SpectOptions,
    device: str = "cpu",
) -> pe.Workflow:
    """Preprocess one SPECT scan and save its derivatives.

    Parameters
    ----------
    template : Path
        T1w template brain on the grid of the result.

    Outputs (``outputnode``)
    ------------------------
    saved : dict
        Name of each derivative (see :func:`spect_paths`) and its absolute path.
    """
    paths = spect_paths(scan, options)
    shared = {"template": template, "uptake_template": options.template}
    conform = pe.Node(
        ConformUptake(in_file=scan.path, cutoff_per_cm=options.cutoff_per_cm), name="conform"
    )
    lacks_t1w = options.registration == "t1w" and scan.t1w is None
    register = pe.Node(
        RegisterUptake(seed=options.seed, lacks_t1w=lacks_t1w, **shared), name="register", mem_gb=1
    )
    measure = pe.Node(
        MeasureBinding(
            participant=scan.participant,
            session=scan.session,
            reference=options.reference,
            percentile=options.percentile,
            ml=options.ml,
            **shared,
        ),
        name="measure",
    )
    figures = pe.Node(UptakeFigures(template=template), name="figures")
    metas = ("conform_meta", "register_meta", "binding_meta", "measure_meta")
    save = pe.Node(
        SaveDerivatives(
            names=(*paths, *metas),
            output_dir=str(output_dir),
            paths=paths,
            sidecars=_sidecars(options, spect_fingerprint(scan, options)),
            common={"Sources": _sources(scan, options)},
            narrow={
                "register_meta": ["registered", "ratios", "quality"],
                "binding_meta": ["registered", "ratios"],
            },
        ),
        name="save",
        overwrite=True,  # the work dir may remember results that the output folder has lost
    )
    outputnode = pe.Node(niu.IdentityInterface(["saved"]), name="outputnode")

    workflow = pe.Workflow(name)
    workflow.connect(
        [
            (conform, register, [("out_file", "in_file")]),
            (register, measure, [("out_file", "in_file"), ("out_seen", "seen")]),
            (measure, figures, [("out_file", "registered")]),
            (conform, save, [("out_file", "image"), ("meta", "conform_meta")]),
            (
                register,
                save,
                [
                    ("to_template", "to_template"),
                    ("to_native", "to_native"),
                    ("meta", "register_meta"),
                ],
            ),
            (
                measure,
                save,
                [
                    ("out_file", "registered"),
                    ("out_ratios", "ratios"),
                    ("out_quality", "quality"),
                    ("binding_meta", "binding_meta"),
                    ("meta", "measure_meta"),
                ],
            ),
            (
                figures,
                save,
                [
                    ("display_figure", "display_figure"),
                    ("registration_figure", "registration_figure"),
                ],
            ),
            (save, outputnode, [("saved", "saved")]),
        ]
    )
    if _t1w(scan, options) is not None:
        _through_t1w(workflow, register, scan, device)
    return workflow


def _through_t1w(workflow: pe.Workflow, register: pe.Node, scan: Scan, device: str) -> None:
    """Give the registration the person's T1w image and brain."""
    assert scan.t1w is not None
    conform = pe.Node(Conform(in_file=scan.t1w.path), name="conform_t1w")
    mask = pe.Node(BrainMask(device=device, use_gpu=device != "cpu"), name="t1w_mask", mem_gb=1.5)
    workflow.connect(
        [
            (conform, mask, [("out_file", "in_file")]),
            (conform, register, [("out_file", "t1w")]),
            (mask, register, [("out_mask", "t1w_mask")]),
        ]
    )


def _sources(scan: Scan, options: SpectOptions) -> list[str]:
    used = [one for one in (scan, _t1w(scan, options)) if one is not None]
    return [
        f"bids:raw:sub-{one.participant}"
        + (f"/ses-{one.session}" if one.session else "")
        + f"/{one.path.parent.name}/{one.path.name}"
        for one in used
    ]


def _sidecars(options: SpectOptions, made_by: str) -> dict[str, dict[str, Any]]:
    """The static part of each sidecar."""
    grid = grid_sidecar(full_grid(options.resolution_mm))
    side = "on the side where the putamen binds less (ipsilateral)"
    return {
        "image": {
            "Description": "RAS+ axes, not negative; a series is averaged over time, raw "
            "projections are reconstructed"
        },
        "registered": {
            "Description": "Uptake in template space over that of the reference region; not "
            "mirrored: left is left",
            "SkullStripped": False,
            **grid,
        },
        "ratios": {
            "Description": "Specific binding ratios by hottest-voxels analysis",
            "left": {"Description": "Left of the person"},
            "right": {"Description": "Right of the person"},
            "ipsilateral": {"Description": f"Value {side}"},
            "contralateral": {"Description": "Value on the other side"},
            "lower_putamen": {"Description": "Side on which the putamen binds less"},
            "asymmetry_percent": {"Description": "(right - left) / mean, in percent"},
            **grid,
        },
        "quality": {
            "Description": "Numbers that tell a failed registration or a cut field of view",
            "template_correlation": {
                "Description": "Pearson correlation with the FP-CIT template inside its brain"
            },
            "striatal_shift_mm": {
                "Description": "Distance of the brain's hottest 25 ml from the template's striata",
                "Units": "mm",
            },
            "striata_seen": {
                "Description": "Share of the striata inside the field of view; outer planes that "
                "hold one value, such as 0, do not count to it"
            },
            "cerebellum_seen": {"Description": "Share of the cerebellum inside it"},
            "lower_putamen": {"Description": "Side on which the putamen binds less"},
            "flags": {"Description": "Sentences about numbers that are far off"},
            **grid,
            "Fingerprint": made_by,
            "Options": asdict(options),
        },
    }


def uptake_input(
    path: str | Path, grid: Grid, intensity: str, blanked: np.ndarray | bool = False
) -> np.ndarray:
    """A registered SPECT as the network sees it: (1, x, y, z) float32 on ``grid``.

    Parameters
    ----------
    path : path
        Uptake in template space, over that of the reference region.
    grid : Grid
        The recipe's grid.
    intensity : {"stored", "binding", "max", "zscore"}
        See :func:`models.volumes.scale_intensity`; of the voxels that are left.
    blanked : bool array (x, y, z), optional
        Voxels of the grid that are set to 0.

    Notes
    -----
    Outside the template's brain everything is 0, so that scalp and glands cannot be learnt from.
    """
    image = read_nifti(path)
    data = to_grid(np.asarray(image.dataobj, np.float32), image.affine, grid)
    return scale_intensity(np.where(_brain(grid) & ~np.bool_(blanked), data, 0), intensity)[None]


@cache
def _brain(grid: Grid) -> np.ndarray:
    """The template's brain (x, y, z), bool, left like right: mirrored people have the same one."""
    image = read_nifti(template())
    outline = (np.asarray(image.dataobj) > 0).astype(np.float32)
    both = outline * mirrored(outline, image.affine)
    return to_grid(both, image.affine, grid) >= 0.5


def shows_right_lower(path: str | Path) -> bool:
    """Whether the putamen binds less on the right of a registered image."""
    return read_sidecar(path)["LowerPutamen"] == "R"


def binding_measures(path: str | Path) -> dict[str, float]:
    """Binding of a registered image on the side of the lower putamen and on the other."""
    sidecar = read_sidecar(path)
    ratios, lower = sidecar["SpecificBindingRatio"], sidecar["LowerPutamen"]
    higher = "L" if lower == "R" else "R"
    return {
        f"{whose} {structure} SBR": ratios[f"{structure}_{side}"]
        for structure in ("putamen", "caudate")
        for whose, side in (("ipsilateral", lower), ("contralateral", higher))
    }


MODALITY = Modality(
    suffix="spect",
    options=SpectOptions.of,
    paths=spect_paths,
    making=spect_fingerprint,
    workflow=init_spect_wf,
    volume=uptake_input,
    registrations=REGISTRATIONS,
    beside=unreadable_sidecar,
    to_be_mirrored=shows_right_lower,
    measures=binding_measures,
    alike=0.9,  # what sets two patients apart from all is the same striata: up to .71 in the demo
)
