"""FLAIR: field of view, rigid to T1w, bias field, to MNI, lesion mask and its filling, quality."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from models.grids import full_grid
from pipelines.brain_extraction import check
from pipelines.derivatives import (
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
from pipelines.interfaces.flair import (
    NOT_FILLED,
    AlignToT1w,
    BringLesions,
    CropNeck,
    FillLesions,
    FlairQuality,
    LesionFigure,
    ToTemplate,
)
from pipelines.interfaces.images import Conform
from pipelines.interfaces.sink import SaveDerivatives
from pipelines.lesion_masks import in_t1w
from pipelines.preprocess.modality import T1W_WF, Modality
from pipelines.preprocess.t1w import MODALITY as T1W
from pipelines.preprocess.t1w import T1wOptions, extraction, source_of, t1w_fingerprint

REVISION = 1  # raised when the same input would give other voxels

# [preprocessing] lesions: end of the name of the image, and how they are filled.
LESIONS = {"keep": ("", ""), "fill": ("Filled", "slices"), "fill_local": ("FilledLocal", "local")}
ALONE = (
    "there is no T1w image: the FLAIR image was registered to the template directly, by an affine "
    "transform, and its own brain mask was used"
)

# What a scan with a lesion mask lacks where that is refused.
OF_LESIONS = ("lesions", "registered_lesions", "lesion_figure")
METAS = ("conform_meta", "crop_meta", "mask_meta", "align_meta", "move_meta", "lesion_meta")


@dataclass(frozen=True)
class FlairOptions(T1wOptions):
    """What of the preprocessing a recipe or a flag may choose: that of T1w, and the lesions.

    Parameters
    ----------
    lesions : {"keep", "fill", "fill_local"}
        Whether lesions are replaced by white matter: by draws per axial slice (Eitel 2019), or by
        the average around each voxel.
    """

    registration: str = "linear"
    lesions: str = "keep"

    @property
    def t1w(self) -> T1wOptions:
        """How the T1w image is preprocessed that leads to the template."""
        return T1wOptions(**{one.name: getattr(self, one.name) for one in fields(T1wOptions)})

    @property
    def variant(self) -> str:
        """What the names of images say of it: LinearFilled."""
        return self.registration.capitalize() + LESIONS[self.lesions][0]

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], seed: int) -> "FlairOptions":
        """The recipe's ``[preprocessing]``."""
        return cls(**asdict(T1wOptions.of(preprocessing, seed)), lesions=preprocessing["lesions"])


def flair_paths(scan: Scan, options: FlairOptions) -> dict[str, str]:
    """Derivatives of one FLAIR scan, by the name of the node output; paths below output_dir."""
    how, res = options.registration, full_grid(options.resolution_mm).name
    ids = scan.entities
    space = {**ids, "space": SPACE, "res": res}
    figures = f"sub-{scan.participant}/figures/"

    def figure(desc: str, **more: str) -> str:
        return figures + filename("FLAIR", ".png", {**ids, **more, "desc": desc})

    def to(start: str, end: str, desc: str) -> str:
        names = {**ids, "from": start, "to": end, "mode": "image", "desc": desc}
        return relative_path("xfm", ".h5", names)

    alone = {
        "to_template": to("FLAIR", SPACE, "linear"),
        "to_native": to(SPACE, "FLAIR", "linear"),
    }
    lesions = {
        "lesions": relative_path("mask", ".nii.gz", {**ids, "label": "L"}),
        "registered_lesions": lesion_path(scan, options),
        "lesion_figure": figure(f"lesions{options.variant}", res=res),
    }
    return {
        "image": relative_path("FLAIR", ".nii.gz", {**ids, "desc": "preproc"}),
        "mask": relative_path("mask", ".nii.gz", {**ids, "desc": "brainFLAIR"}),
        **({"to_t1w": to("FLAIR", "T1w", "rigid")} if scan.t1w else alone),
        "registered": relative_path(
            "FLAIR", ".nii.gz", {**space, "desc": f"preproc{options.variant}"}
        ),
        "registered_mask": relative_path(
            "mask", ".nii.gz", {**space, "desc": f"brainFLAIR{how.capitalize()}"}
        ),
        **(lesions if scan.lesions else {}),
        "mask_figure": figure("mask"),
        "registration_figure": figure(f"registration{options.variant}", res=res),
        "quality": relative_path(
            "qc", ".tsv", {**ids, "mod": "FLAIR", "res": res, "desc": _lower(options.variant)}
        ),
    }


def _lower(variant: str) -> str:
    return variant[0].lower() + variant[1:]


def lesion_path(scan: Scan, options: FlairOptions) -> str:
    """Lesions in template space; of the image before and after filling alike."""
    res, how = full_grid(options.resolution_mm).name, options.registration.capitalize()
    names = {"space": SPACE, "res": res, "label": "L", "desc": f"lesion{how}"}
    return relative_path("mask", ".nii.gz", scan.entities | names)


def flair_fingerprint(scan: Scan, options: FlairOptions) -> str:
    """Hash of all raw voxels that play a part, the options and the revisions."""
    others = [t1w_fingerprint(scan.t1w, options.t1w)] if scan.t1w else []
    others += [file_hash(scan.lesions)] if scan.lesions else []
    # Of a mask, the name decides which way it is moved.
    others += ["T1w"] if scan.lesions and in_t1w(scan.lesions) else []
    return fingerprint("FLAIR", REVISION, file_hash(scan.path), others, asdict(options))


def init_flair_wf(
    *,
    name: str,
    scan: Scan,
    output_dir: Path,
    template: Path,
    options: FlairOptions,
    device: str = "cpu",
) -> pe.Workflow:
    """Preprocess one FLAIR scan and save its derivatives.

    With a T1w image, that one is preprocessed first, unless its derivatives are there: it brings
    the brain mask and the way to the template. Without one, FLAIR goes there directly.

    Parameters
    ----------
    scan : Scan
        With its ``t1w`` and its ``lesions``, where there are any.
    template : Path
        Template brain on the grid of the result.

    Outputs (``outputnode``)
    ------------------------
    saved : dict
        Name of each derivative (see :func:`flair_paths`) and its absolute path.
    """
    paths = flair_paths(scan, options)
    conform = pe.Node(Conform(in_file=scan.path), name="conform")
    crop = pe.Node(CropNeck(), name="crop")
    bias_field = pe.Node(BiasField(seed=options.seed), name="bias_field", mem_gb=1)
    move = pe.Node(ToTemplate(template=template), name="move", mem_gb=2)
    quality = pe.Node(
        FlairQuality(
            participant=scan.participant,
            session=scan.session,
            registration=options.registration if scan.t1w else "linear",
            template=template,
        ),
        name="quality",
    )
    figures = pe.Node(QualityFigures(template=template), name="figures")
    save = pe.Node(
        SaveDerivatives(
            names=(*paths, *METAS, "fill_meta", "quality_meta"),
            output_dir=str(output_dir),
            paths=paths,
            sidecars=_sidecars(scan, options, paths["image"]),
            common={"Sources": _sources(scan)},
            spared=list(OF_LESIONS) if scan.lesions else [],
            narrow={
                "move_meta": ["registered", "registered_mask", "quality"],
                "lesion_meta": ["lesions", "registered_lesions", "quality"],
                "fill_meta": ["registered", "quality"],
            },
        ),
        name="save",
        overwrite=True,  # the work dir may remember results that the output folder has lost
    )
    outputnode = pe.Node(niu.IdentityInterface(["saved"]), name="outputnode")

    workflow = pe.Workflow(name)
    workflow.connect(
        [
            (conform, crop, [("out_file", "in_file")]),
            (crop, bias_field, [("out_file", "in_file")]),
            (bias_field, move, [("out_file", "in_file")]),
            (move, quality, [("out_mask", "registered_mask")]),
            (move, quality, [("outside_percent", "outside_percent")]),
            (bias_field, figures, [("out_file", "image")]),
            (conform, save, [("meta", "conform_meta")]),
            (crop, save, [("meta", "crop_meta")]),
            (bias_field, save, [("out_file", "image")]),
            (move, save, [("out_mask", "registered_mask"), ("meta", "move_meta")]),
            (figures, save, [("mask_figure", "mask_figure")]),
            (figures, save, [("registration_figure", "registration_figure")]),
            (quality, save, [("out_table", "quality"), ("meta", "quality_meta")]),
            (save, outputnode, [("saved", "saved")]),
        ]
    )
    way = _by_t1w if scan.t1w else _directly
    mask = way(workflow, scan, output_dir, template, options, device)
    for node, target in (
        (bias_field, "mask"),
        (quality, "mask"),
        (figures, "mask"),
        (save, "mask"),
    ):
        workflow.connect([(mask, node, [("out_mask", target)])])
    _end(workflow, scan, template, options)
    return workflow


def _by_t1w(
    workflow: pe.Workflow,
    scan: Scan,
    output_dir: Path,
    template: Path,
    options: FlairOptions,
    device: str,
) -> pe.Node:
    """Rigid to the T1w image, from there on with it; returns the node with the brain mask."""
    assert scan.t1w is not None
    align = pe.Node(AlignToT1w(seed=options.seed), name="align", mem_gb=2)
    if T1W.is_done(output_dir, scan.t1w, options.t1w):
        there = T1W.paths(scan.t1w, options.t1w)
        align.inputs.t1w = {key: str(output_dir / path) for key, path in there.items()}
    else:
        first = T1W.workflow(
            name=T1W_WF,
            scan=scan.t1w,
            output_dir=output_dir,
            template=template,
            options=options.t1w,
            device=device,
        )
        workflow.connect([(first, align, [("outputnode.saved", "t1w")])])
    crop, move, save = (workflow.get_node(name) for name in ("crop", "move", "save"))
    workflow.connect(
        [
            (crop, align, [("out_file", "in_file")]),
            (align, move, [("to_template", "transforms"), ("registered_mask", "mask")]),
            (align, save, [("to_t1w", "to_t1w"), ("meta", "align_meta")]),
        ]
    )
    return align


def _directly(
    workflow: pe.Workflow,
    scan: Scan,
    output_dir: Path,
    template: Path,
    options: FlairOptions,
    device: str,
) -> pe.Node:
    """Affine to the template; returns the node with the brain mask, which is FLAIR's own."""
    check(options.brain_extraction)
    brain_mask = pe.Node(extraction(options, device), name="brain_mask", mem_gb=1.5)
    register = pe.Node(
        Register(template=template, how="linear", seed=options.seed), name="register", mem_gb=2
    )
    crop, bias_field, move, save = (
        workflow.get_node(name) for name in ("crop", "bias_field", "move", "save")
    )
    save.inputs.align_meta = {"Warnings": [ALONE], "Coregistration": "none: there is no T1w image"}
    workflow.connect(
        [
            (crop, brain_mask, [("out_file", "in_file")]),
            (bias_field, register, [("out_file", "in_file")]),
            (brain_mask, register, [("out_mask", "mask")]),
            (register, move, [("to_template", "transforms"), ("out_mask", "mask")]),
            (register, save, [("to_template", "to_template"), ("to_native", "to_native")]),
            (brain_mask, save, [("meta", "mask_meta")]),
        ]
    )
    return brain_mask


def _end(workflow: pe.Workflow, scan: Scan, template: Path, options: FlairOptions) -> None:
    """Lesions, where there is a mask, and which image is the registered one."""
    move, save, figures = (workflow.get_node(name) for name in ("move", "save", "figures"))
    how = LESIONS[options.lesions][1]
    if how and not scan.lesions:
        save.inputs.fill_meta = {"Warnings": [NOT_FILLED], "LesionFilling": NOT_FILLED}
    last = _lesions(workflow, scan, template, options, how) if scan.lesions else move
    workflow.connect(
        [
            (last, save, [("out_file", "registered")]),
            (last, figures, [("out_file", "registered")]),
        ]
    )


def _lesions(
    workflow: pe.Workflow, scan: Scan, template: Path, options: FlairOptions, how: str
) -> pe.Node:
    """Take the mask along and fill, where that is asked for; returns the node with the image."""
    bring = pe.Node(
        BringLesions(lesions=scan.lesions, of=str(scan.path), template=template),
        name="bring",
        mem_gb=1,
    )
    picture = pe.Node(LesionFigure(), name="picture")
    bias_field, move, quality, save = (
        workflow.get_node(name) for name in ("bias_field", "move", "quality", "save")
    )
    align = workflow.get_node("align")
    transforms, mask = (
        ((align, "to_template"), (align, "out_mask"))
        if align is not None
        else (
            (workflow.get_node("register"), "to_template"),
            (workflow.get_node("brain_mask"), "out_mask"),
        )
    )
    workflow.connect(
        [
            (bias_field, bring, [("out_file", "image")]),
            (transforms[0], bring, [(transforms[1], "transforms")]),
            (mask[0], bring, [(mask[1], "mask")]),
            (move, bring, [("out_mask", "registered_mask")]),
            (bring, quality, [("volume_ml", "lesion_ml"), ("count", "lesion_count")]),
            (
                bring,
                save,
                [
                    ("out_file", "lesions"),
                    ("registered", "registered_lesions"),
                    ("meta", "lesion_meta"),
                ],
            ),
            (bring, picture, [("registered", "lesions")]),
            (picture, save, [("out_file", "lesion_figure")]),
        ]
    )
    if align is not None:
        workflow.connect([(align, bring, [("from_t1w", "from_t1w")])])
    last = move
    if how:
        last = pe.Node(FillLesions(how=how, seed=options.seed), name="fill", mem_gb=2)
        workflow.connect(
            [
                (move, last, [("out_file", "in_file"), ("out_mask", "mask")]),
                (bring, last, [("registered", "lesions")]),
                (last, save, [("meta", "fill_meta")]),
            ]
        )
        if align is not None:
            workflow.connect([(align, last, [("t1w_registered", "t1w")])])
    workflow.connect([(last, picture, [("out_file", "image")])])
    return last


def _sources(scan: Scan) -> list[str]:
    """BIDS URIs of the raw images; a mask is named by its file, which may lie anywhere."""
    raws = [scan] + ([scan.t1w] if scan.t1w else [])
    return [source_of(one) for one in raws]


def _sidecars(scan: Scan, options: FlairOptions, native: str) -> dict[str, dict[str, Any]]:
    """The static part of each sidecar; ``native`` is the path of the native image."""
    where = grid_sidecar(full_grid(options.resolution_mm))
    mask = {"Type": "Brain", "Description": "Brain with its inner CSF"}
    lesion = {"Type": "Lesion", "Description": "White matter lesions, from the dataset's mask"}
    reference = {"SpatialReference": derivative_uri(native)}
    return {
        "image": {
            "Description": "RAS+ axes, robust field of view, N4 bias field correction; the skull "
            "as in the input",
        },
        "mask": mask | reference,
        "registered": {
            "Description": "Bias-corrected FLAIR brain in template space",
            "SkullStripped": True,
            **where,
        },
        "registered_mask": mask | where,
        "lesions": lesion | reference,
        "registered_lesions": lesion | where,
        "quality": {
            "Description": "Numbers that tell a failed mask or registration, and the lesion load",
            "registration": {"Description": "How the brain was brought to the template's grid"},
            "mask_volume_ml": {"Description": "Volume of the native brain mask", "Units": "mL"},
            "template_overlap": {"Description": "Dice overlap of brain mask and template brain"},
            "outside_fov_percent": {
                "Description": "Share of the brain that the FLAIR image does not cover",
                "Units": "percent",
            },
            "lesion_volume_ml": {
                "Description": "Native lesion volume within the brain; n/a without a mask",
                "Units": "mL",
            },
            "lesion_count": {"Description": "Lesions whose voxels touch, corners included"},
            "flags": {"Description": "Sentences about numbers that are far off"},
            **where,
            "Fingerprint": flair_fingerprint(scan, options),
            "Options": asdict(options),
        },
    }


MODALITY = Modality(
    suffix="FLAIR",
    options=FlairOptions.of,
    paths=flair_paths,
    making=flair_fingerprint,
    workflow=init_flair_wf,
    volume=network_input,
    needs_t1w=True,
    lesions=lesion_path,
)
