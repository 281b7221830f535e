"""The stages of the preprocessing of a DWI scan; each adds its nodes to the workflow.

A stage finds the nodes of the stages before it by their names. What all of them leave is saved by
one table at the end.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from nipype.interfaces import fsl
from nipype.pipeline import engine as pe

from pipelines.diffusion_options import MAPS, Diffusion
from pipelines.inputs import Scan
from pipelines.interfaces.diffusion import (
    B0Brain,
    ConformDwi,
    DenoiseDwi,
    FitTensor,
    Unring,
    chosen_unringing,
)
from pipelines.interfaces.diffusion_fsl import ForFsl, FromFsl, check_fsl
from pipelines.interfaces.diffusion_motion import (
    AlignVolume,
    FieldOfPair,
    Reference,
    ResampleSeries,
)
from pipelines.interfaces.diffusion_space import (
    ALONE,
    CarryTensor,
    DwiFigures,
    DwiQuality,
    DwiToT1w,
    DwiToTemplate,
)
from pipelines.phase_encoding import opposite_of

if TYPE_CHECKING:
    from pipelines.preprocess.dwi import DwiOptions

# What each node leaves for the sink.
SAVED = {
    "conform": [("meta", "conform_meta")],
    "denoise": [("meta", "noise_meta")],
    "unring": [("meta", "unring_meta")],
    "pair": [("meta", "pair_meta")],
    "resample": [("meta", "align_meta")],
    "brain": [("out_file", "image"), ("out_mask", "mask"), ("meta", "brain_meta")],
    "fit": [
        *[(name, name) for name in ("tensor", "md", "fa", "b_values", "b_vectors")],
        ("meta", "fit_meta"),
    ],
    "register": [("to_t1w", "to_t1w"), ("meta", "register_meta")],
    "carry": [
        ("tensor", "registered"),
        *[(name, f"registered_{name}") for name in MAPS],
        ("out_mask", "registered_mask"),
        ("meta", "carry_meta"),
    ],
    "figures": [
        (f"{name}_figure", f"{name}_figure")
        for name in ("mask", "colour", "registration", "motion")
    ],
    "quality": [("out_table", "quality"), ("meta", "quality_meta")],
}
# What is said of a step that is not taken.
UNDONE = {
    "unring": {"GibbsCorrection": "none"},
    "register": {"Warnings": [ALONE], "Coregistration": "none: no T1w image"},
}


def clean(workflow: pe.Workflow, scan: Scan, own: Diffusion) -> pe.Node:
    """Conform, and take noise and rings out; returns the node with the clean series."""
    conform = pe.Node(ConformDwi(in_file=scan.path), name="conform", mem_gb=1)
    denoise = pe.Node(DenoiseDwi(), name="denoise", mem_gb=2)
    workflow.connect([(conform, denoise, [("out_file", "in_file")])])
    if own.gibbs == "none":
        return denoise
    unring = pe.Node(Unring(method=chosen_unringing(own.gibbs)), name="unring", mem_gb=2)
    workflow.connect(
        [
            (denoise, unring, [("out_file", "in_file")]),
            (conform, unring, [("slice_axis", "slice_axis"), ("meta", "partial_fourier")]),
        ]
    )
    return unring


def align_by_ants(workflow: pe.Workflow, scan: Scan, series: pe.Node, seed: int) -> None:
    """Head motion, eddy currents and distortion by ANTs, in one interpolation."""
    conform = workflow.get_node("conform")
    reference = pe.Node(Reference(seed=seed), name="reference", mem_gb=1)
    align = pe.MapNode(AlignVolume(seed=seed), name="align", iterfield=["volume"], mem_gb=0.5)
    resample = pe.Node(ResampleSeries(), name="resample", mem_gb=1)
    towards = [
        *[("out_file", "reference"), ("weighted", "weighted"), ("link", "link")],
        *[("around", "around"), ("volume", "reference_volume")],
    ]
    workflow.connect(
        [
            *[(series, node, [("out_file", "in_file")]) for node in (reference, align, resample)],
            (conform, reference, [("table", "table")]),
            (conform, align, [("table", "table"), ("volumes", "volume"), ("axis", "axis")]),
            (conform, resample, [("table", "table"), ("axis", "axis")]),
            (reference, align, towards),
            (reference, resample, [("around", "around")]),
            (align, resample, [("rigid", "rigid"), ("full", "full")]),
        ]
    )
    opposite = opposite_of(scan.path)
    if opposite is None:
        return
    pair = pe.Node(FieldOfPair(opposite=opposite, seed=seed), name="pair", mem_gb=1)
    workflow.connect(
        [
            (conform, pair, [("axis", "axis")]),
            (reference, pair, [("out_file", "reference"), ("around", "around")]),
            (pair, resample, [("field", "field")]),
        ]
    )


def align_by_fsl(workflow: pe.Workflow, scan: Scan, series: pe.Node, seed: int) -> None:
    """The same by eddy of FSL, and topup where there is a pair; the seed is not theirs."""
    opposite = opposite_of(scan.path)
    check_fsl(pair=opposite is not None)
    prepare = pe.Node(ForFsl(source=scan.path), name="prepare", mem_gb=1)
    eddy = pe.Node(
        fsl.Eddy(is_shelled=True, slm="linear", output_type="NIFTI_GZ"), name="eddy", mem_gb=4
    )
    resample = pe.Node(FromFsl(pair=opposite is not None), name="resample", mem_gb=1)
    conform = workflow.get_node("conform")
    given = [
        *[("series", "in_file"), ("mask", "in_mask"), ("index", "in_index")],
        *[("parameters", "in_acqp"), ("b_values", "in_bval"), ("b_vectors", "in_bvec")],
    ]
    made = [
        *[("out_corrected", "in_file"), ("out_rotated_bvecs", "b_vectors")],
        *[("out_parameter", "parameters"), ("out_restricted_movement_rms", "displacement")],
    ]
    workflow.connect(
        [
            (series, prepare, [("out_file", "in_file")]),
            (conform, prepare, [("table", "table")]),
            (conform, resample, [("table", "table")]),
            (prepare, eddy, given),
            (eddy, resample, made),
        ]
    )
    if opposite is None:
        return
    prepare.inputs.opposite = opposite
    topup = pe.Node(fsl.TOPUP(output_type="NIFTI_GZ"), name="topup", mem_gb=2)
    found = [("out_fieldcoef", "in_topup_fieldcoef"), ("out_movpar", "in_topup_movpar")]
    workflow.connect(
        [
            (prepare, topup, [("pair", "in_file"), ("parameters", "encoding_file")]),
            (topup, eddy, found),
        ]
    )


MOTIONS = {"ants": align_by_ants, "fsl": align_by_fsl}


def fit(workflow: pe.Workflow, scan: Scan, own: Diffusion, seed: int) -> None:
    """Brain, bias field and tensor of the aligned series; the node that carries the tensor."""
    conform, denoise, resample = (
        workflow.get_node(name) for name in ("conform", "denoise", "resample")
    )
    brain = pe.Node(B0Brain(seed=seed), name="brain", mem_gb=1)
    tensor = pe.Node(
        FitTensor(source=str(scan.path), method=own.fit, outliers=own.outliers),
        name="fit",
        mem_gb=2,
    )
    carry = pe.Node(
        CarryTensor(reorientation=own.reorientation, interpolation=own.interpolation, fit=own.fit),
        name="carry",
        mem_gb=2,
    )
    workflow.connect(
        [
            (resample, brain, [("out_file", "in_file"), ("table", "table")]),
            (brain, tensor, [("out_file", "in_file"), ("out_mask", "mask")]),
            (resample, tensor, [("table", "table")]),
            (conform, tensor, [("slice_axis", "slice_axis")]),
            (denoise, tensor, [("noise_sd", "noise_sd")]),
            (tensor, carry, [("tensor", "tensor")]),
            (brain, carry, [("out_mask", "mask")]),
        ]
    )


def judge(workflow: pe.Workflow, scan: Scan, registration: str, template: Path) -> None:
    """Quality numbers, and figures to look at."""
    resample, brain, tensor, carry = (
        workflow.get_node(name) for name in ("resample", "brain", "fit", "carry")
    )
    quality = pe.Node(
        DwiQuality(
            participant=scan.participant,
            session=scan.session,
            registration=registration,
            template=template,
        ),
        name="quality",
    )
    figures = pe.Node(DwiFigures(), name="figures")
    shares = [(f"{one}_percent", f"{one}_percent") for one in ("outside", "cut")]
    workflow.connect(
        [
            (brain, quality, [("out_mask", "mask")]),
            (tensor, quality, [("fa", "fa"), ("md", "md"), ("numbers", "numbers")]),
            *[(resample, node, [("motion", "motion")]) for node in (quality, figures)],
            (carry, quality, [("out_mask", "registered_mask"), *shares]),
            (brain, figures, [("b0", "b0"), ("out_mask", "mask")]),
            (carry, figures, [("tensor", "tensor"), ("fa", "fa")]),
            (tensor, figures, [("outliers", "outliers")]),
        ]
    )


def by_t1w(
    workflow: pe.Workflow, first: pe.Workflow | dict[str, str], options: "DwiOptions"
) -> None:
    """To the T1w image, and from there on with it; ``first`` has or makes its derivatives."""
    register = pe.Node(
        DwiToT1w(seed=options.seed, how=options.dwi.coregistration), name="register", mem_gb=2
    )
    conform, brain, carry, figures = (
        workflow.get_node(name) for name in ("conform", "brain", "carry", "figures")
    )
    if isinstance(first, dict):
        register.inputs.t1w = first
    else:
        workflow.connect([(first, register, [("outputnode.saved", "t1w")])])
    if options.registered:
        ends = [("to_mni", "transforms"), ("registered", "grid_of"), ("registered_mask", "brain")]
        anatomy = "registered"
    else:
        carry.inputs.resolution_mm = options.resolution_mm
        ends = [("to_t1w", "transforms"), ("image", "grid_of"), ("t1w_mask", "brain")]
        anatomy = "image"
    workflow.connect(
        [
            (conform, register, [("axis", "axis")]),
            (brain, register, [("b0", "b0"), ("out_mask", "mask")]),
            (register, carry, ends),
            (register, figures, [(anatomy, "anatomy")]),
        ]
    )


def directly(workflow: pe.Workflow, template: Path, options: "DwiOptions") -> None:
    """The b0 to the template; or, unregistered, the tensor where it is."""
    brain, carry, figures = (workflow.get_node(name) for name in ("brain", "carry", "figures"))
    if not options.registered:
        carry.inputs.resolution_mm = options.resolution_mm
        workflow.connect(
            [(brain, carry, [("b0", "grid_of")]), (brain, figures, [("b0", "anatomy")])]
        )
        return
    register = pe.Node(
        DwiToTemplate(template=template, how=options.registration, seed=options.seed),
        name="register",
        mem_gb=2,
    )
    carry.inputs.grid_of = carry.inputs.brain = figures.inputs.anatomy = template
    workflow.connect(
        [
            (brain, register, [("b0", "b0"), ("out_mask", "mask")]),
            (register, carry, [("to_t1w", "transforms")]),
        ]
    )


def saved(workflow: pe.Workflow, save: pe.Node) -> None:
    """Connect what each node leaves with the sink, and say which steps were not taken."""
    for name, fields in SAVED.items():
        node = workflow.get_node(name)
        if node is not None:
            workflow.connect([(node, save, fields)])
        elif name in UNDONE:
            setattr(save.inputs, f"{name}_meta", UNDONE[name])
