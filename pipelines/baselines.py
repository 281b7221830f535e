"""Which simple classifiers stand beside a network."""

from collections.abc import Sequence
from dataclasses import dataclass

NETWORK = "network"
LESION_ML = "lesion_volume_ml"  # column of the cohort
ALPHA = 0.05
GRID = (0.001, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Baseline:
    """A simple classifier.

    Parameters
    ----------
    title : str
        What it is called in a sentence.
    caution : str
        What it may mean when the network does not beat it.
    """

    title: str
    caution: str


_AS_SIMPLE = "nothing shows that a network was needed"
BASELINES = {
    "svm_voxels": Baseline("a linear SVM on the voxels", _AS_SIMPLE),
    "svm_voxels_rbf": Baseline("an SVM with a radial kernel on the voxels", _AS_SIMPLE),
    "svm_regions": Baseline(
        "a linear SVM on regions", "nothing shows that it learnt more than one number per region"
    ),
    "svm_lesions": Baseline(
        "a linear SVM on the lesion volume",
        "nothing shows that it learnt more than how much lesion there is",
    ),
    "covariates": Baseline("the covariates alone", "what it learnt may be the covariates"),
    "mask": Baseline("the brain mask alone", "what it learnt may be the skull-stripping"),
}


@dataclass(frozen=True)
class BaselineOptions:
    """Which baselines are fitted, and what their nested search may choose from.

    Parameters
    ----------
    names : tuple of str
        Keys of `BASELINES`.
    c : tuple of float
        Of the support vector machines and the logistic regression.
    gamma : tuple of float
        Of the radial kernel.
    pca : int
        Principal components of the voxels that are kept, fitted inside the fold; 0 for all.
    inner_folds : int
    """

    names: tuple[str, ...] = tuple(BASELINES)
    c: tuple[float, ...] = GRID
    gamma: tuple[float, ...] = GRID
    pca: int = 0
    inner_folds: int = 5


def titles(names: Sequence[str]) -> dict[str, str]:
    """Names of classifiers, in words without an article, for axes and tables."""
    said = {NETWORK: "network"}
    for name in names:
        if name in BASELINES:
            said[name] = BASELINES[name].title.split(" ", 1)[1]
    return said
