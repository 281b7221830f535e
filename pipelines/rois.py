"""Regions of interest of the anomaly scores: whole brain, tissue and lobes, deep nuclei.

Lobes are sets of an atlas's regions, sides joined. Which regions belong to which is data below;
an atlas without such a table gives its own regions, sides joined.
"""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from models.errors import InputError
from models.grids import Grid
from models.regions import without_side
from pipelines.atlases import Atlas, atlas, on_grid

WHOLE = "whole brain"

# Patterns of whole names without their side. The eight macro regions of Muñoz-Ramírez et al.
LOBES: Mapping[str, Mapping[str, str]] = {
    "Neuromorphometrics": {
        "subcortical": r"Accumbens.*|Amygdala|Basal_Forebrain|Caudate|Hippocampus|Pallidum"
        r"|Putamen|Thalamus.*|Ventral_DC",
        "white matter": r"Cerebral_White_Matter",
        "frontal": r"(FRP|GRe|MFC|MFG|MOrG|AOrG|LOrG|POrG|OpIFG|OrIFG|TrIFG|PrG|MPrG|MSFG|SFG|SMC"
        r"|SCA|FO|CO)_.*",
        "temporal": r"(FuG|ITG|MTG|STG|TMP|PP|PT|TTG|Ent|PHG)_.*",
        "parietal": r"(AnG|PoG|MPoG|PCu|SMG|SPL|PO)_.*",
        "occipital": r"(Calc|Cun|IOG|LiG|MOG|OCP|OFuG|SOG)_.*",
        "cingulate and insula": r"(ACgG|MCgG|PCgG|AIns|PIns)_.*",
    },
    "AAL": {
        "subcortical": r"Amygdala|Caudate|Hippocampus|Pallidum|Putamen|Thalamus",
        "frontal": r"Precentral|Frontal_.*|Rolandic_Oper|Supp_Motor_Area|Olfactory|Rectus|OFC.*"
        r"|Paracentral_Lobule",
        "temporal": r"Heschl|Temporal_.*|Fusiform|ParaHippocampal",
        "parietal": r"Postcentral|Parietal_.*|SupraMarginal|Angular|Precuneus",
        "occipital": r"Calcarine|Cuneus|Lingual|Occipital_.*",
        "cingulate and insula": r"Insula|Cingulate_.*",
    },
}
NUCLEI = {
    "thalamus": r"Thalamus(_Proper)?",
    "putamen": r"Putamen",
    "caudate": r"Caudate",
    "pallidum": r"Pallidum",
}


def regions_of_interest(
    lobes: Atlas, nuclei: Atlas | None, grid: Grid, brain: np.ndarray, *, least: int
) -> dict[str, np.ndarray]:
    """Voxels of every region of interest.

    Parameters
    ----------
    lobes : Atlas
        Of the macro regions; also of the nuclei where it has them.
    nuclei : Atlas, optional
        Whose regions, sides joined, are the nuclei instead (such as MNI PD25).
    grid : Grid
    brain : (x, y, z) bool array
    least : int
        Voxels that a region must have inside the brain; smaller ones are left out.

    Returns
    -------
    dict of str to (voxels of the brain,) bool array
        The whole brain first.

    Raises
    ------
    models.errors.InputError
        No region of the atlases has enough voxels.
    """
    wanted = [(lobes, LOBES.get(lobes.name))]
    wanted.append((nuclei, None) if nuclei else (lobes, NUCLEI if lobes.name in LOBES else {}))
    found = {}
    for source, patterns in wanted:
        labels = on_grid(source, grid.affine, grid.shape)[brain]
        for name, index in _members(source.labels, patterns).items():
            inside = np.isin(labels, index)
            if inside.sum() >= least:
                found[name] = inside
    if not found:
        raise InputError(
            f"{lobes.image}: no region has {least} voxels or more on the grid {grid.name} inside "
            "the controls' brain; choose another atlas, a finer grid, or lower [anomaly] "
            "least_voxels"
        )
    return {WHOLE: np.ones(int(brain.sum()), bool), **found}


def _members(labels: pd.DataFrame, patterns: Mapping[str, str] | None) -> dict[str, list[int]]:
    """Indices of the labels that make up each region of interest."""
    names = [without_side(str(name)) for name in labels["name"]]
    found: dict[str, list[int]] = {}
    if patterns is None:
        patterns = {name: re.escape(name) for name in dict.fromkeys(names)}
    for region, pattern in patterns.items():
        index = [int(i) for i, n in zip(labels["index"], names, strict=True)
                 if re.fullmatch(pattern, n)]  # fmt: skip
        if index:
            found[region] = index
    return found


def roi_atlases(lobes: str, nuclei: str) -> tuple[Atlas, Atlas | None]:
    """The atlases of a recipe; ``nuclei`` is "" where those of ``lobes`` will do."""
    return atlas(lobes), atlas(nuclei) if nuclei else None
