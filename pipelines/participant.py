"""Participant level: one workflow per person, side by side under one parent."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from nipype.pipeline import engine as pe

from models.grids import full_grid
from models.volumes import to_grid
from pipelines.atlases import template
from pipelines.derivatives import SPACE, place
from pipelines.images import read_nifti, write_nifti
from pipelines.inputs import Scan
from pipelines.preprocess.modality import T1W_WF, Modality


def template_on_grid(resolution_mm: float, folder: Path) -> Path:
    """The template brain at ``resolution_mm``, written once into ``folder``."""
    grid = full_grid(resolution_mm)
    target = folder / f"tpl-{SPACE}_res-{grid.name}_desc-brain_T1w.nii.gz"
    if not target.exists():
        image = read_nifti(template())
        stored = np.asarray(image.dataobj, np.float32)
        data = to_grid(stored, image.affine, grid)
        # Without the rim that smoothing adds around the brain.
        data[to_grid(stored > 0, image.affine, grid, order=0) == 0] = 0
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as own:  # other processes may be at it too
            write_nifti(Path(own) / target.name, data, grid.affine, template=True)
            place(Path(own) / target.name, target)
    return target


def init_participant_wf(
    *,
    scans: Sequence[Scan],
    output_dir: Path,
    work_dir: Path,
    modality: Modality,
    options: Any,
    device: str = "cpu",
) -> pe.Workflow:
    """Preprocess every scan; people and sessions are independent branches.

    Each person works in a folder of their own below ``work_dir/participant``, so that processes
    may share a work dir as long as no two run the same person at once.

    Parameters
    ----------
    scans : sequence of Scan
        Of one modality.
    options : object
        Of :attr:`Modality.options`; ``resolution_mm`` is that of the template.
    """
    brain = template_on_grid(options.resolution_mm, work_dir / "templates")
    parent = pe.Workflow("participant", base_dir=str(work_dir))
    kind = modality.suffix.lower()
    for participant in sorted({scan.participant for scan in scans}):
        person = pe.Workflow(f"sub_{participant}")
        made: dict[Scan | None, pe.Workflow] = {}
        for scan in scans:
            if scan.participant == participant:
                workflow = modality.workflow(
                    name=f"{kind}_ses_{scan.session}_wf" if scan.session else f"{kind}_wf",
                    scan=scan,
                    output_dir=output_dir,
                    template=brain,
                    options=options,
                    device=device,
                )
                person.add_nodes([workflow])
                _share_t1w(person, made.setdefault(scan.t1w, workflow), workflow)
        parent.add_nodes([person])
    return parent


def _share_t1w(person: pe.Workflow, first: pe.Workflow, other: pe.Workflow) -> None:
    """Where two scans go with one T1w image, only the first one's workflow preprocesses it."""
    within = other.get_node(T1W_WF)
    if first is other or within is None:
        return
    links = [
        (target, field)
        for _, target, data in other._graph.out_edges(within, data=True)
        for _, field in data["connect"]
    ]
    other.remove_nodes([within])
    for target, field in links:
        person.connect(first, f"{T1W_WF}.outputnode.saved", other, f"{target.name}.{field}")
