"""Preprocessing: one module per modality, which ends in its ``MODALITY``."""

from importlib import import_module
from typing import TYPE_CHECKING

from models.errors import InputError

if TYPE_CHECKING:
    from pipelines.preprocess.modality import Modality

# BIDS suffix of the raw image to its module; the first that a dataset has is the default.
MODALITIES = {"T1w": "t1w", "FLAIR": "flair", "spect": "spect", "dwi": "dwi", "dwimap": "dwimap"}


# How a brain may be brought to the template's grid, the most first; t1w: by the T1w image.
REGISTRATIONS = ("nonlinear", "linear", "t1w", "none")


def modality_of(suffix: str) -> "Modality":
    """The modality of a BIDS suffix.

    Raises
    ------
    models.errors.InputError
        There is none.
    """
    if suffix not in MODALITIES:
        raise InputError(f"modality '{suffix}' is unknown; choose one of: {', '.join(MODALITIES)}")
    return import_module(f"pipelines.preprocess.{MODALITIES[suffix]}").MODALITY
