"""DWI: noise, Gibbs rings, motion and distortion, tensor, to the T1w image and to MNI, quality."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from models.errors import InputError
from models.grids import Grid, full_grid
from models.tensor import NEGATED
from models.volumes import to_grid
from pipelines.derivatives import (
    SPACE,
    derivative_uri,
    file_hash,
    filename,
    fingerprint,
    grid_sidecar,
    read_sidecar,
    relative_path,
)
from pipelines.diffusion_options import MAPS, Diffusion
from pipelines.gradient_files import table_file
from pipelines.images import in_template, read_nifti, whole_grid
from pipelines.inputs import Scan, metadata_of, unreadable, unreadable_sidecar
from pipelines.interfaces.sink import SaveDerivatives
from pipelines.own_template import check_template
from pipelines.phase_encoding import opposite_of
from pipelines.preprocess import dwi_stages as stages
from pipelines.preprocess.modality import T1W_WF, Modality
from pipelines.preprocess.t1w import MODALITY as T1W
from pipelines.preprocess.t1w import T1wOptions, own_template, t1w_fingerprint
from pipelines.tensors import FLOOR, ORDER, UNITS, WORDS, map_of

REVISION = 3  # raised when the same input would give other voxels
COMPONENTS = ("dxx", "dxy", "dxz", "dyy", "dyz", "dzz")
# What a tensor is divided by, so that a network's input is about 1: free water at 37 C, or 1e-3.
SCALES = {"max": 3.0e-3, "stored": 1.0e-3}
# Least share of brain in what is mixed into a voxel of another grid: half, less rounding.
LEAST_BRAIN = 0.5 - 1e-4
METAS = ("conform_meta", "noise_meta", "unring_meta", "pair_meta", "align_meta", "brain_meta")


@dataclass(frozen=True)
class DwiOptions:
    """What of the preprocessing a recipe or a flag may choose.

    Parameters
    ----------
    registration : {"nonlinear", "linear", "none"}
        How the tensor comes to the template (S1's ``pre``); ``none`` leaves it in T1w space, on
        the template's number of voxels (S1's ``post``).
    resolution_mm : float
        Voxel size of the result.
    seed : int
        Of ANTs' sampling.
    brain_extraction, denoise : str
        Of the T1w image.
    dwi : Diffusion
    template : str
        A T1w brain of the user's that T1w images are registered to first; "" for none.
    """

    registration: str = "nonlinear"
    resolution_mm: float = 2.0
    seed: int = 1
    brain_extraction: str = "deepbet"
    denoise: str = "none"
    dwi: Diffusion = field(default_factory=Diffusion)
    template: str = ""

    def __post_init__(self) -> None:
        check_template(self.template)

    @property
    def registered(self) -> bool:
        """Whether the result lies in template space."""
        return self.registration != "none"

    @property
    def t1w(self) -> T1wOptions:
        """How the T1w image is preprocessed; maps of unregistered tensors follow it nonlinearly."""
        how = self.registration if self.registered else "nonlinear"
        return T1wOptions(
            how,
            self.resolution_mm,
            self.seed,
            self.brain_extraction,
            self.denoise,
            self.template,
        )

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], seed: int) -> "DwiOptions":
        """The recipe's ``[preprocessing]``; ANTs needs a seed above zero."""
        if preprocessing["registration"] == "t1w":
            raise InputError(
                "[preprocessing] registration = 't1w': diffusion images go through the T1w image "
                "anyway; choose nonlinear or linear (tensors in MNI) or none (tensors in T1w space)"
            )
        return cls(
            preprocessing["registration"],
            preprocessing["resolution_mm"],
            seed + 1,
            preprocessing["brain_extraction"],
            preprocessing["denoise"],
            Diffusion(**preprocessing["dwi"]),
            own_template(preprocessing),
        )


def dwi_paths(scan: Scan, options: DwiOptions) -> dict[str, str]:
    """Derivatives of one DWI scan, by the name of the node output; paths below output_dir."""
    how, res = options.registration, full_grid(options.resolution_mm).name
    ids = scan.entities
    figures = f"sub-{scan.participant}/figures/"
    where = {"space": SPACE if options.registered else "T1w", "res": res}
    desc = {"desc": how} if options.registered else {}

    def path(suffix: str, extension: str, **more: str) -> str:
        return relative_path(suffix, extension, {**ids, **more}, datatype="dwi")

    def tensor_map(name: str, **more: str) -> str:
        return path("dwimap", ".nii.gz", model="tensor", param=name, **more)

    def figure(what: str, **more: str) -> str:
        return figures + filename("dwi", ".png", {**ids, **more, "desc": what})

    to = "T1w" if scan.t1w else SPACE
    transforms = {"to_t1w": path("xfm", ".h5", **{"from": "dwi", "to": to, "mode": "image"})}
    variant = how.capitalize()
    return {
        "image": path("dwi", ".nii.gz", desc="preproc"),
        "b_values": path("dwi", ".bval", desc="preproc"),
        "b_vectors": path("dwi", ".bvec", desc="preproc"),
        "mask": path("mask", ".nii.gz", desc="brain"),
        "tensor": tensor_map("diffusivity"),
        "md": tensor_map("md"),
        "fa": tensor_map("fa"),
        **(transforms if scan.t1w or options.registered else {}),
        "registered": tensor_map("diffusivity", **where, **desc),
        **{f"registered_{name}": tensor_map(name, **where, **desc) for name in MAPS},
        "registered_mask": path("mask", ".nii.gz", **where, desc=f"brain{variant}"),
        "mask_figure": figure("mask"),
        "colour_figure": figure(f"colour{variant}", res=res),
        "registration_figure": figure(f"registration{variant}", res=res),
        "motion_figure": figure("motion"),
        "quality": path("qc", ".tsv", res=res, desc=how),
    }


def dwi_fingerprint(scan: Scan, options: DwiOptions) -> str:
    """Hash of all raw files that play a part, the options and the revisions."""
    opposite = opposite_of(scan.path)
    files = [scan.path, opposite, *(table_file(scan.path, one) for one in (".bval", ".bvec"))]
    hashes = [file_hash(one) for one in files if one is not None]
    t1w = t1w_fingerprint(scan.t1w, options.t1w) if scan.t1w else ""
    return fingerprint("dwi", REVISION, hashes, metadata_of(scan.path), t1w, asdict(options))


def init_dwi_wf(
    *,
    name: str,
    scan: Scan,
    output_dir: Path,
    template: Path,
    options: DwiOptions,
    device: str = "cpu",
) -> pe.Workflow:
    """Preprocess one DWI scan and save its derivatives.

    With a T1w image, that one is preprocessed first, unless its derivatives are there: it brings
    the brain mask and the way to the template. An image of opposite phase encoding beside the
    scan brings the susceptibility distortion. Volumes are aligned side by side.

    Parameters
    ----------
    scan : Scan
        With its ``t1w``, where there is one.
    template : Path
        Template brain on the grid of the result.

    Outputs (``outputnode``)
    ------------------------
    saved : dict
        Name of each derivative (see :func:`dwi_paths`) and its absolute path.

    Raises
    ------
    models.errors.InputError
        A program that was asked for cannot run here.
    """
    workflow = pe.Workflow(name)
    clean = stages.clean(workflow, scan, options.dwi)
    stages.MOTIONS[options.dwi.motion](workflow, scan, clean, options.seed)
    stages.fit(workflow, scan, options.dwi, options.seed)
    stages.judge(workflow, scan, options.registration, template)
    if scan.t1w is None:
        stages.directly(workflow, template, options)
    else:
        first = _t1w(workflow, scan.t1w, output_dir, template, options, device)
        stages.by_t1w(workflow, first, options)
    save = pe.Node(
        _sink(scan, options, output_dir, dwi_paths(scan, options)), name="save", overwrite=True
    )
    stages.saved(workflow, save)
    outputnode = pe.Node(niu.IdentityInterface(["saved"]), name="outputnode")
    workflow.connect([(save, outputnode, [("saved", "saved")])])
    return workflow


def _t1w(
    workflow: pe.Workflow,
    scan: Scan,
    output_dir: Path,
    template: Path,
    options: DwiOptions,
    device: str,
) -> pe.Workflow | dict[str, str]:
    """The derivatives of the T1w image where they are done, else the workflow that makes them."""
    if T1W.is_done(output_dir, scan, options.t1w):
        there = T1W.paths(scan, options.t1w)
        return {key: str(output_dir / path) for key, path in there.items()}
    return T1W.workflow(
        name=T1W_WF,
        scan=scan,
        output_dir=output_dir,
        template=template,
        options=options.t1w,
        device=device,
    )


def _sink(
    scan: Scan, options: DwiOptions, output_dir: Path, paths: Mapping[str, str]
) -> SaveDerivatives:
    """What saves the derivatives, last the table of quality numbers."""
    fitted = ["tensor", "md", "fa", "quality"]
    carried = ["registered", *(f"registered_{name}" for name in MAPS)]
    return SaveDerivatives(
        names=(*paths, *METAS, "fit_meta", "register_meta", "carry_meta", "quality_meta"),
        output_dir=str(output_dir),
        paths=dict(paths),
        sidecars=_sidecars(scan, options, paths["image"]),
        common={"Sources": _sources(scan)},
        narrow={
            "fit_meta": fitted,
            "register_meta": [*carried, "registered_mask", "quality"],
            "carry_meta": [*carried, "quality"],
        },
    )


def _sources(scan: Scan) -> list[str]:
    used = [scan.path, opposite_of(scan.path), scan.t1w and scan.t1w.path]
    return [
        f"bids:raw:sub-{scan.participant}/{one.parent.parent.name}/{one.parent.name}/{one.name}"
        if scan.session and one.parent.parent.name.startswith("ses-")
        else f"bids:raw:sub-{scan.participant}/{one.parent.name}/{one.name}"
        for one in used
        if one
    ]


def _sidecars(scan: Scan, options: DwiOptions, native: str) -> dict[str, dict[str, Any]]:
    """The static part of each sidecar; ``native`` is the path of the native series."""
    grid = full_grid(options.resolution_mm)
    t1w = derivative_uri(T1W.paths(scan.t1w, options.t1w)["image"]) if scan.t1w else native
    where = grid_sidecar(grid) if options.registered else _own_grid(grid, t1w)
    mask = {"Type": "Brain", "Description": "Brain with its inner CSF"}
    tensor = {"Description": f"Diffusion tensor: {ORDER}", "Units": "mm^2/s"}
    maps = {name: {"Description": WORDS[name], "Units": UNITS[name]} for name in MAPS}
    own = {"SkullStripped": True}
    return {
        "image": {
            "Description": "RAS+ axes; without noise, Gibbs rings, head motion, eddy currents, "
            "bias field; .bval and .bvec are its own",
            "SkullStripped": False,
        },
        "mask": mask | {"SpatialReference": derivative_uri(native)},
        "tensor": tensor | own,
        "md": maps["md"] | own,
        "fa": maps["fa"] | own,
        "registered": tensor | own | where,
        **{f"registered_{name}": maps[name] | own | where for name in MAPS},
        "registered_mask": mask | where,
        "quality": _QUALITY
        | where
        | {"Fingerprint": dwi_fingerprint(scan, options), "Options": asdict(options)},
    }


def _own_grid(grid: Grid, reference: str) -> dict[str, Any]:
    size = "x".join(map(str, grid.shape))
    return {
        "Resolution": f"{grid.voxel_mm:g} mm isotropic, {size} voxels about the middle of the scan",
        "SpatialReference": reference,
    }


_QUALITY: dict[str, Any] = {
    "Description": "Numbers that tell a moving head, noise, a wrong table or a failed registration",
    "registration": {"Description": "How the tensor was brought to the template's grid"},
    "mask_volume_ml": {"Description": "Volume of the native brain mask", "Units": "mL"},
    "volumes": {"Description": "Volumes of the series"},
    "volumes_fitted": {"Description": "Of these, those that the tensor was fitted to"},
    "outlier_volumes": {"Description": "Volumes with too many damaged slices"},
    "damaged_slices": {"Description": "Slices darker than the other volumes foretell"},
    "snr_b0": {"Description": "Median b0 signal of the brain over the noise"},
    "snr_weighted": {"Description": "The same of the weighted volumes"},
    "residual_percent": {
        "Description": "Median residual of the tensor's signal over the b0 signal",
        "Units": "percent",
    },
    "negative_percent": {
        "Description": f"Share of the brain with an eigenvalue below {FLOOR:g} mm^2/s",
        "Units": "percent",
    },
    "motion_mean_mm": {
        "Description": "Mean displacement of the head between volumes, without what follows the "
        "gradients (eddy currents)",
        "Units": "mm",
    },
    "motion_max_mm": {"Description": "Largest displacement between volumes", "Units": "mm"},
    "white_fa": {"Description": "Median FA of what looks like white matter"},
    "white_md": {"Description": "Median MD of the same", "Units": "mm^2/s"},
    "outside_fov_percent": {
        "Description": "Share of the brain that the series does not cover",
        "Units": "percent",
    },
    "template_overlap": {"Description": "Dice overlap of the mask and the template brain"},
    "brain_outside_percent": {
        "Description": "Share of the brain beyond the grid, without registration",
        "Units": "percent",
    },
    "flags": {"Description": "Sentences about numbers that are far off"},
}


def tensor_input(
    path: str | Path, grid: Grid, intensity: str, blanked: np.ndarray | bool = False
) -> np.ndarray:
    """A tensor image as a network sees it: (6, x, y, z) float32 on ``grid``.

    Parameters
    ----------
    path : path
        Tensor in template space, or in T1w space on the template's number of voxels; mm^2/s, 0
        outside the brain.
    grid : Grid
        The recipe's grid.
    intensity : {"max", "stored"}
        Divided by the diffusivity of free water at 37 C, 3e-3 mm^2/s; or in 1e-3 mm^2/s. All
        components alike, so that it stays a tensor.
    blanked : bool array (x, y, z), optional
        Voxels of the grid that are set to 0.

    Raises
    ------
    models.errors.InputError
        Another intensity was asked for.
    """
    if intensity not in SCALES:
        raise InputError(
            f"[preprocessing] intensity = '{intensity}': a tensor has units and one scale; choose "
            f"{' or '.join(SCALES)}"
        )
    image = read_nifti(path)
    data = np.nan_to_num(np.asarray(image.dataobj, np.float32)) / SCALES[intensity]
    affine = image.affine if in_template(image) else whole_grid(image, path).affine
    brain = to_grid(np.any(data != 0, axis=-1).astype(np.float32), affine, grid)
    mixed = np.stack([to_grid(data[..., k], affine, grid) for k in range(6)])
    tensor = mixed / np.maximum(brain, LEAST_BRAIN)
    return np.where(blanked | (brain < LEAST_BRAIN), 0, tensor).astype(np.float32)


def fewest_volumes_last(path: Path) -> int:
    """Rank of a series: b0s of opposite phase encoding may lie beside it under the same suffix."""
    try:
        shape = nib.Nifti1Image.from_filename(path).shape
    except Exception:  # an unreadable image is told of where it is read
        return 0
    return -shape[3] if len(shape) > 3 else 0


def unreadable_beside(path: Path) -> str:
    """Why the sidecar or the tables of a series cannot be read, as a sentence; "" when they can."""
    tables = [table_file(path, one) for one in (".bval", ".bvec")]
    problems = [unreadable_sidecar(path), *(unreadable(one) for one in tables if one)]
    return next(filter(None, problems), "")


def ways_to_template(output_dir: Path, options: DwiOptions) -> dict[tuple[str, str], Path]:
    """Transforms of the T1w images in whose spaces tensors were left; without one, there is none.

    Parameters
    ----------
    output_dir : Path
    options : DwiOptions
        With ``registration = "none"``.
    """
    found = {}
    for key, path in MODALITY.stored(output_dir, options).items():
        reference = Path(str(read_sidecar(path).get("SpatialReference", "")))
        parts = dict(part.split("-", 1) for part in reference.name.split("_") if "-" in part)
        if not reference.name.endswith("_T1w.nii.gz"):
            continue
        t1w = Scan(parts["sub"], parts.get("ses", ""), path)
        way = output_dir / T1W.paths(t1w, options.t1w)["to_template"]
        if way.exists():
            found[key] = way
    return found


MODALITY = Modality(
    suffix="dwi",
    options=DwiOptions.of,
    paths=dwi_paths,
    making=dwi_fingerprint,
    workflow=init_dwi_wf,
    volume=tensor_input,
    needs_t1w=True,
    channels=len(COMPONENTS),
    parameters=COMPONENTS,
    negated=NEGATED,
    rank=fewest_volumes_last,
    beside=unreadable_beside,
    others_are="not fitted (one of opposite phase encoding tells the distortion)",
    maps={name: partial(map_of, name=name) for name in MAPS},
    ways=ways_to_template,
)
