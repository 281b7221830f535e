"""What a voxelwise test is asked for, and what its corrections are called."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.derivatives import label

FAMILY = "family-wise error"
ONE_SAMPLE = "mean"


@dataclass(frozen=True)
class Correction:
    """How p values are corrected for the number of voxels.

    Parameters
    ----------
    desc : str
        BIDS label of its maps.
    rate : str
        What is held at or below alpha.
    how : str
        What the p values come from; ``{statistic}`` stands for the largest t or F.
    measure : str
        What the threshold is on.
    permuted : bool
        Whether it comes from the permutations.
    on_statistic : bool
        Whether the threshold is on the voxels' own statistic.
    """

    desc: str
    rate: str
    how: str
    measure: str
    permuted: bool = True
    on_statistic: bool = False

    @property
    def p_column(self) -> str:
        """Name of its p in a table of clusters that it made."""
        return "peak_p_fwe" if self.rate == FAMILY else f"peak_p_{self.desc.lower()}"


CORRECTIONS = {
    "voxel": Correction(
        "FWE", FAMILY, "permutation of the largest {statistic}", "{statistic}", on_statistic=True
    ),
    "extent": Correction(
        "FWEextent", FAMILY, "permutation of the largest cluster", "voxels of a cluster"
    ),
    "mass": Correction(
        "FWEmass", FAMILY, "permutation of the largest cluster mass", "mass of a cluster"
    ),
    "tfce": Correction(
        "FWEtfce", FAMILY, "permutation of the largest threshold-free enhancement", "TFCE"
    ),
    "fdr": Correction(
        "FDR",
        "false discovery rate",
        "Benjamini and Hochberg on p values of the {statistic} distribution",
        "{statistic}",
        permuted=False,
        on_statistic=True,
    ),
    "random_field": Correction(
        "RFT", FAMILY, "random-field theory of {statistic}", "{statistic}", False, True
    ),
}
CLUSTERS = ("extent", "mass")


@dataclass(frozen=True)
class StatisticsOptions:
    """How maps of people are compared.

    Parameters
    ----------
    maps : tuple of str
        ``image``, and names of attributions.
    smoothing_fwhm_mm : float
    permutations : int
    alpha : float
        Family-wise error, or false discovery rate.
    min_cluster_mm3 : float
    corrections : tuple of str
        Keys of `CORRECTIONS`. The first decides which voxels are significant.
    cluster_p : float
        Uncorrected p below which voxels form the clusters of ``extent`` and ``mass``.
    tail : bool
        Whether small p values come from a generalised Pareto tail where one fits.
    terms : tuple of str
        Terms of the model, as `models.statistics.designs` describes them.
    contrast : str or tuple of str
        What is tested; "" compares the two classes, adjusted for the cohort's covariates.
    categorical : tuple of str
        Columns of numbers that are names, such as those of sites.
    variance_groups : bool
        Whether the classes may differ in variance; signs are then flipped.
    exchange_within : str
        Column of participants.tsv; people change places only with those of the same value (sites).
    exchange_whole : str
        Column of participants.tsv; people of the same value (families) move, or flip, together.
    cluster_atlases : tuple of str
        Atlases whose shares of a cluster are named, beside that of the region tables.
    memory_mb : float
        Memory to work in, beyond the maps; 0 takes what fits the device.
    """

    maps: tuple[str, ...] = ("image",)
    smoothing_fwhm_mm: float = 8.0
    permutations: int = 1000
    alpha: float = 0.05
    min_cluster_mm3: float = 0.0
    corrections: tuple[str, ...] = ("voxel",)
    cluster_p: float = 0.001
    tail: bool = False
    terms: tuple[str, ...] = ()
    contrast: str | tuple[str, ...] = ""
    categorical: tuple[str, ...] = ()
    variance_groups: bool = False
    exchange_within: str = ""
    exchange_whole: str = ""
    cluster_atlases: tuple[str, ...] = ()
    memory_mb: float = 0.0

    @property
    def columns(self) -> list[str]:
        """Columns of participants.tsv that the terms name."""
        return list(dict.fromkeys(name for term in self.terms for name in term.split(":")))

    @property
    def blocks(self) -> list[str]:
        """Columns of participants.tsv that say who may change places with whom."""
        return [name for name in (self.exchange_within, self.exchange_whole) if name]

    @property
    def rows(self) -> list[str]:
        """The combinations that are tested; several together make an F test."""
        return [self.contrast] if isinstance(self.contrast, str) else list(self.contrast)

    @property
    def flips(self) -> bool:
        """Whether signs change, not places: for a mean, or where variances may differ."""
        return self.variance_groups or self.rows == [ONE_SAMPLE]

    @property
    def permuted(self) -> bool:
        """Whether any correction comes from permutations."""
        return any(CORRECTIONS[name].permuted for name in self.corrections)


def contrast_label(contrast: str | Sequence[str]) -> str:
    """BIDS label of a contrast: ``"0.5*AD - CN:age"`` as ``0p5ADMinusCNByage``.

    Raises
    ------
    models.errors.InputError
        It has no letter or digit.
    """
    rows = [contrast] if isinstance(contrast, str) else contrast
    words = {r"(?<=\d)\.(?=\d)": "p", r"\s+-\s+": "Minus", r"^\s*-": "Minus", r"\s+\+\s+": "Plus"}
    said = []
    for row in rows:
        for pattern, word in (words | {":": "By"}).items():
            row = re.sub(pattern, word, row)
        said.append(label(row))
    return "And".join(said)
