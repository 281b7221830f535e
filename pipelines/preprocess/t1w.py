"""T1w: conform, brain mask, bias field, registration to MNI, quality."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from models.errors import InputError
from models.grids import full_grid
from pipelines.brain_extraction import check
from pipelines.derivatives import (
    OWN_SPACE,
    SPACE,
    derivative_uri,
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
from pipelines.interfaces.images import BrainMask, Centre, Conform, Denoise, Quality
from pipelines.interfaces.sink import SaveDerivatives
from pipelines.own_template import by_own_template, check_template
from pipelines.preprocess.modality import Modality

REVISION = 3  # raised when the same input would give other voxels
METAS = ("conform_meta", "mask_meta", "denoise_meta", "register_meta", "quality_meta")


@dataclass(frozen=True)
class T1wOptions:
    """What of the preprocessing a recipe or a flag may choose.

    Parameters
    ----------
    registration : {"nonlinear", "linear", "none"}
        Affine and SyN, affine alone, or padded and cropped about the middle of the image.
    resolution_mm : float
        Voxel size at which the template is used and the result stored.
    seed : int
        Of ANTs' sampling, and of ROBEX.
    brain_extraction : {"deepbet", "robex"}
        Of images that come with their skull.
    denoise : {"none", "nlm"}
        Non-local means before the bias field is corrected.
    template : str
        A T1w brain of the user's that people are registered to first; "" for none.
    """

    registration: str = "nonlinear"
    resolution_mm: float = 1.0
    seed: int = 1
    brain_extraction: str = "deepbet"
    denoise: str = "none"
    template: str = ""

    def __post_init__(self) -> None:
        check_template(self.template)

    @property
    def registered(self) -> bool:
        """Whether the result lies in template space."""
        return self.registration != "none"

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], seed: int) -> "T1wOptions":
        """The recipe's ``[preprocessing]``; ANTs needs a seed above zero."""
        if preprocessing["registration"] == "t1w":
            raise InputError(
                "[preprocessing] registration = 't1w' is of other modalities, which go through "
                "the T1w image; choose nonlinear, linear or none"
            )
        return cls(
            preprocessing["registration"],
            preprocessing["resolution_mm"],
            seed + 1,
            preprocessing["brain_extraction"],
            preprocessing["denoise"],
            own_template(preprocessing),
        )


def own_template(preprocessing: Mapping[str, Any]) -> str:
    """Whole path of the user's template, as nodes run in folders of their own; "" for none."""
    given = preprocessing.get("template", "")
    return str(Path(given).absolute()) if given else ""


def t1w_paths(scan: Scan, options: T1wOptions) -> dict[str, str]:
    """Derivatives of one T1w scan, by the name of the node output; paths below output_dir.

    ``quality`` is last: where it exists with the right fingerprint, all others do.
    """
    how, res = options.registration, full_grid(options.resolution_mm).name
    ids = scan.entities
    space = {**ids, "space": SPACE if options.registered else OWN_SPACE, "res": res}
    warp = {**ids, "mode": "image", "res": res, "desc": how}
    figures = f"sub-{scan.participant}/figures/"

    def figure(desc: str, **more: str) -> str:
        return figures + filename("T1w", ".png", {**ids, **more, "desc": desc})

    transforms = {
        "to_template": relative_path("xfm", ".h5", {**warp, "from": "T1w", "to": SPACE}),
        "to_native": relative_path("xfm", ".h5", {**warp, "from": SPACE, "to": "T1w"}),
    }
    return {
        "image": relative_path("T1w", ".nii.gz", {**ids, "desc": "preproc"}),
        "mask": relative_path("mask", ".nii.gz", {**ids, "desc": "brain"}),
        **(transforms if options.registered else {}),
        "registered": relative_path(
            "T1w", ".nii.gz", {**space, "desc": f"preproc{how.capitalize()}"}
        ),
        "registered_mask": relative_path(
            "mask", ".nii.gz", {**space, "desc": f"brain{how.capitalize()}"}
        ),
        "mask_figure": figure("mask"),
        "registration_figure": figure(f"registration{how.capitalize()}", res=res),
        "quality": relative_path("qc", ".tsv", {**ids, "res": res, "desc": how}),
    }


def t1w_fingerprint(scan: Scan, options: T1wOptions) -> str:
    """Hash of the raw voxels, the options and the revision of this workflow."""
    chosen = asdict(options)
    own = chosen.pop("template")
    template = [file_hash(own)] if own else []
    return fingerprint("T1w", REVISION, file_hash(scan.path), chosen, *template)


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

    Raises
    ------
    models.errors.InputError
        The brain extraction that was chosen cannot run here.
    """
    check(options.brain_extraction)
    paths = t1w_paths(scan, options)
    conform = pe.Node(Conform(in_file=scan.path), name="conform")
    brain_mask = pe.Node(extraction(options, device), name="brain_mask", mem_gb=1.5)
    bias_field = pe.Node(BiasField(seed=options.seed), name="bias_field", mem_gb=1)
    register, more, also_quality = _registration(options, template)
    quality = pe.Node(
        Quality(
            participant=scan.participant,
            session=scan.session,
            registration=options.registration,
            template=template,
        ),
        name="quality",
    )
    figures = pe.Node(QualityFigures(template=template), name="figures")
    save = pe.Node(
        SaveDerivatives(
            names=(*paths, *METAS),
            output_dir=str(output_dir),
            paths=paths,
            sidecars=_sidecars(options, t1w_fingerprint(scan, options), paths["image"]),
            common={"Sources": [source_of(scan)]},
            narrow={
                "denoise_meta": ["image", "registered"],
                "register_meta": ["registered", "registered_mask", "quality"],
            },
        ),
        name="save",
        overwrite=True,  # the work dir may remember results that the output folder has lost
    )
    outputnode = pe.Node(niu.IdentityInterface(["saved"]), name="outputnode")

    workflow = pe.Workflow(name)
    workflow.connect(
        [
            (conform, brain_mask, [("out_file", "in_file")]),
            *_denoised(options, conform, bias_field, save),
            (brain_mask, bias_field, [("out_mask", "mask")]),
            (bias_field, register, [("out_file", "in_file")]),
            (brain_mask, register, [("out_mask", "mask")]),
            (brain_mask, quality, [("out_mask", "mask")]),
            (
                register,
                quality,
                [("out_file", "registered"), ("out_mask", "registered_mask"), *also_quality],
            ),
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
                    ("out_file", "registered"),
                    ("out_mask", "registered_mask"),
                    ("meta", "register_meta"),
                    *more,
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


def _registration(
    options: T1wOptions, template: Path
) -> tuple[pe.Node, list[tuple[str, str]], list[tuple[str, str]]]:
    """The node that brings a brain to the template's grid, and what it hands on in addition.

    To the sink, and to the quality numbers.
    """
    if not options.registered:
        node = pe.Node(Centre(resolution_mm=options.resolution_mm), name="register")
        return node, [], [("outside_percent", "outside_percent")]
    interface = Register(template=template, how=options.registration, seed=options.seed)
    if options.template:
        by = by_own_template(options.template, template, options.resolution_mm, options.seed)
        interface.inputs.trait_set(**by)
    transforms = [("to_template", "to_template"), ("to_native", "to_native")]
    return pe.Node(interface, name="register", mem_gb=2), transforms, []


def extraction(options: T1wOptions, device: str) -> BrainMask:
    """The brain extraction that a recipe names.

    Only what a method looks at is named: the seed does not redo what draws nothing.
    """
    if options.brain_extraction == "robex":
        return BrainMask(method="robex", seed=options.seed)
    return BrainMask(method=options.brain_extraction, device=device, use_gpu=device != "cpu")


def _denoised(
    options: T1wOptions, conform: pe.Node, bias_field: pe.Node, save: pe.Node
) -> list[tuple[pe.Node, pe.Node, list[tuple[str, str]]]]:
    """What leads from the conformed image to the bias field."""
    if options.denoise == "none":
        return [(conform, bias_field, [("out_file", "in_file")])]
    denoise = pe.Node(Denoise(), name="denoise", mem_gb=1)
    return [
        (conform, denoise, [("out_file", "in_file")]),
        (denoise, bias_field, [("out_file", "in_file")]),
        (denoise, save, [("meta", "denoise_meta")]),
    ]


def source_of(scan: Scan) -> str:
    """BIDS URI of a raw image."""
    folder = f"sub-{scan.participant}" + (f"/ses-{scan.session}" if scan.session else "")
    return f"bids:raw:{folder}/anat/{scan.path.name}"


def _where(options: T1wOptions, native: str) -> dict[str, Any]:
    """Sidecar of what lies on the template's grid: in its space, or in that of the native image."""
    grid = full_grid(options.resolution_mm)
    if options.registered:
        return grid_sidecar(grid)
    size = "x".join(map(str, grid.shape))
    return {
        "Resolution": f"{grid.voxel_mm:g} mm isotropic, {size} voxels about the middle of the scan",
        "SpatialReference": derivative_uri(native),
    }


def _sidecars(options: T1wOptions, made_by: str, native: str) -> dict[str, dict[str, Any]]:
    """The static part of each sidecar; ``native`` is the path of the native image."""
    where = _where(options, native)
    denoised = "non-local means, " if options.denoise == "nlm" else ""
    mask = {"Type": "Brain", "Description": "Brain with its inner CSF"}
    said = {"Description": "Share of the native brain mask beyond the grid", "Units": "percent"}
    outside = {} if options.registered else {"brain_outside_percent": said}
    brain = "in template space" if options.registered else "in its own space, not registered"
    return {
        "image": {
            "Description": f"RAS+ axes, {denoised}N4 bias field correction; the skull as in the "
            "input",
        },
        "mask": mask,
        "registered": {
            "Description": f"Bias-corrected brain {brain}",
            "SkullStripped": True,
            **where,
        },
        "registered_mask": mask | where,
        "quality": {
            "Description": "Numbers that tell a failed mask or registration",
            "registration": {"Description": "How the brain was brought to the template's grid"},
            "mask_volume_ml": {"Description": "Volume of the native brain mask", "Units": "mL"},
            "template_correlation": {
                "Description": "Pearson correlation with the template inside its brain"
            },
            "template_overlap": {"Description": "Dice overlap of brain mask and template brain"},
            **outside,
            "flags": {"Description": "Sentences about numbers that are far off"},
            **where,
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
