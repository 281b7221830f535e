"""T1w: conform, brain mask, bias field, registration to MNI, quality."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from models.grids import full_grid
from pipelines.derivatives import (
    SPACE,
    file_hash,
    filename,
    fingerprint,
    grid_sidecar,
    relative_path,
)
from pipelines.images import network_input
from pipelines.inputs import Scan
from pipelines.interfaces.ants import BiasField, Register
from pipelines.interfaces.figures import QualityFigures
from pipelines.interfaces.images import BrainMask, Conform, Quality
from pipelines.interfaces.sink import SaveDerivatives
from pipelines.preprocess.modality import Modality

REVISION = 2  # raised when the same input would give other voxels


@dataclass(frozen=True)
class T1wOptions:
    """What of the preprocessing a recipe or a flag may choose.

    Parameters
    ----------
    registration : {"nonlinear", "linear"}
        Affine and SyN, or affine alone.
    resolution_mm : float
        Voxel size at which the template is used and the result stored.
    seed : int
        Of ANTs' sampling.
    """

    registration: str = "nonlinear"
    resolution_mm: float = 1.0
    seed: int = 1

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], seed: int) -> "T1wOptions":
        """The recipe's ``[preprocessing]``; ANTs needs a seed above zero."""
        return cls(preprocessing["registration"], preprocessing["resolution_mm"], seed + 1)


def t1w_paths(scan: Scan, options: T1wOptions) -> dict[str, str]:
    """Derivatives of one T1w scan, by the name of the node output; paths below output_dir.

    ``quality`` is last: where it exists with the right fingerprint, all others do.
    """
    how, res = options.registration, full_grid(options.resolution_mm).name
    ids = scan.entities
    mni = {**ids, "space": SPACE, "res": res}
    warp = {**ids, "mode": "image", "res": res, "desc": how}
    figures = f"sub-{scan.participant}/figures/"

    def figure(desc: str, **more: str) -> str:
        return figures + filename("T1w", ".png", {**ids, **more, "desc": desc})

    return {
        "image": relative_path("T1w", ".nii.gz", {**ids, "desc": "preproc"}),
        "mask": relative_path("mask", ".nii.gz", {**ids, "desc": "brain"}),
        "to_template": relative_path("xfm", ".h5", {**warp, "from": "T1w", "to": SPACE}),
        "to_native": relative_path("xfm", ".h5", {**warp, "from": SPACE, "to": "T1w"}),
        "registered": relative_path(
            "T1w", ".nii.gz", {**mni, "desc": f"preproc{how.capitalize()}"}
        ),
        "registered_mask": relative_path(
            "mask", ".nii.gz", {**mni, "desc": f"brain{how.capitalize()}"}
        ),
        "mask_figure": figure("mask"),
        "registration_figure": figure(f"registration{how.capitalize()}", res=res),
        "quality": relative_path("qc", ".tsv", {**ids, "res": res, "desc": how}),
    }


def t1w_fingerprint(scan: Scan, options: T1wOptions) -> str:
    """Hash of the raw voxels, the options and the revision of this workflow."""
    return fingerprint("T1w", REVISION, file_hash(scan.path), asdict(options))


def init_t1w_wf(
    *,
    name: str,
    scan: Scan,
    output_dir: Path,
    template: Path,
    options: T1wOptions,
    device: str = "cpu",
) -> pe.Workflow:
    """Preprocess one T1w scan and save its derivatives.

    Parameters
    ----------
    template : Path
        Template brain on the grid of the result.

    Outputs (``outputnode``)
    ------------------------
    saved : dict
        Name of each derivative (see :func:`t1w_paths`) and its absolute path.
    """
    paths = t1w_paths(scan, options)
    conform = pe.Node(Conform(in_file=scan.path), name="conform")
    brain_mask = pe.Node(
        BrainMask(device=device, use_gpu=device != "cpu"), name="brain_mask", mem_gb=1.5
    )
    bias_field = pe.Node(BiasField(seed=options.seed), name="bias_field", mem_gb=1)
    register = pe.Node(
        Register(template=template, how=options.registration, seed=options.seed),
        name="register",
        mem_gb=2,
    )
    quality = pe.Node(
        Quality(participant=scan.participant, session=scan.session, template=template),
        name="quality",
    )
    figures = pe.Node(QualityFigures(template=template), name="figures")
    save = pe.Node(
        SaveDerivatives(
            names=(*paths, "conform_meta", "mask_meta", "register_meta", "quality_meta"),
            output_dir=str(output_dir),
            paths=paths,
            sidecars=_sidecars(options, t1w_fingerprint(scan, options)),
            common={"Sources": [_source(scan)]},
            narrow={"register_meta": ["registered", "registered_mask", "quality"]},
        ),
        name="save",
        overwrite=True,  # the work dir may remember results that the output folder has lost
    )
    outputnode = pe.Node(niu.IdentityInterface(["saved"]), name="outputnode")

    workflow = pe.Workflow(name)
    workflow.connect(
        [
            (conform, brain_mask, [("out_file", "in_file")]),
            (conform, bias_field, [("out_file", "in_file")]),
            (brain_mask, bias_field, [("out_mask", "mask")]),
            (bias_field, register, [("out_file", "in_file")]),
            (brain_mask, register, [("out_mask", "mask")]),
            (brain_mask, quality, [("out_mask", "mask")]),
            (register, quality, [("out_file", "registered"), ("out_mask", "registered_mask")]),
            (bias_field, figures, [("out_file", "image")]),
            (brain_mask, figures, [("out_mask", "mask")]),
            (register, figures, [("out_file", "registered")]),
            (conform, save, [("meta", "conform_meta")]),
            (brain_mask, save, [("out_mask", "mask"), ("meta", "mask_meta")]),
            (bias_field, save, [("out_file", "image")]),
            (
                register,
                save,
                [
                    ("to_template", "to_template"),
                    ("to_native", "to_native"),
                    ("out_file", "registered"),
                    ("out_mask", "registered_mask"),
                    ("meta", "register_meta"),
                ],
            ),
            (
                figures,
                save,
                [
                    ("mask_figure", "mask_figure"),
                    ("registration_figure", "registration_figure"),
                ],
            ),
            (quality, save, [("out_table", "quality"), ("meta", "quality_meta")]),
            (save, outputnode, [("saved", "saved")]),
        ]
    )
    return workflow


def _source(scan: Scan) -> str:
    folder = f"sub-{scan.participant}" + (f"/ses-{scan.session}" if scan.session else "")
    return f"bids:raw:{folder}/anat/{scan.path.name}"


def _sidecars(options: T1wOptions, made_by: str) -> dict[str, dict[str, Any]]:
    """The static part of each sidecar."""
    grid = full_grid(options.resolution_mm)
    mask = {"Type": "Brain", "Description": "Brain with its inner CSF"}
    return {
        "image": {
            "Description": "RAS+ axes, N4 bias field correction; the skull as in the input",
        },
        "mask": mask,
        "registered": {
            "Description": "Bias-corrected brain in template space",
            "SkullStripped": True,
            **grid_sidecar(grid),
        },
        "registered_mask": mask | grid_sidecar(grid),
        "quality": {
            "Description": "Numbers that tell a failed mask or registration",
            "mask_volume_ml": {"Description": "Volume of the native brain mask", "Units": "mL"},
            "template_correlation": {
                "Description": "Pearson correlation with the template inside its brain"
            },
            "template_overlap": {"Description": "Dice overlap of brain mask and template brain"},
            "flags": {"Description": "Sentences about numbers that are far off"},
            **grid_sidecar(grid),
            "Fingerprint": made_by,
            "Options": asdict(options),
        },
    }


MODALITY = Modality(
    suffix="T1w",
    options=T1wOptions.of,
    paths=t1w_paths,
    making=t1w_fingerprint,
    workflow=init_t1w_wf,
    volume=network_input,
)
