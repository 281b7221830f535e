"""A template of the user's between people and MNI: brains go to it, and by it to MNI.

Estudillo-Romero et al. 2022 registered people with Parkinson's disease to a template of that
disease, and by it to MNI. So results lie in MNI space, where atlases fit, and the template may lie
anywhere.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from models.errors import InputError
from pipelines.derivatives import file_hash, fingerprint, place
from pipelines.images import load_volume, read_nifti, write_nifti
from pipelines.interfaces.ants import deterministic_ants
from pipelines.interfaces.images import stripped_outline

LEAST_OVERLAP = 0.9  # Dice of the two brains after registration


def check_template(path: str, flag: str = "--template") -> None:
    """Raise InputError unless there is such a file; with "" there is none to look for."""
    if path and not Path(path).is_file():
        raise InputError(f"{flag} {path}: there is no such file")


def by_own_template(own: str, mni: Path, resolution_mm: float, seed: int) -> dict[str, str]:
    """The user's template at a resolution, and the transforms between it and MNI; made once.

    Parameters
    ----------
    own : str
        T1w brain without skull, in any space.
    mni : Path
        Template brain on the grid of the results; files are written beside it.
    resolution_mm : float
        Voxel edge of the template as it is used.

    Returns
    -------
    dict
        ``own_template``; ``mni_to_own`` and ``own_to_mni`` map points of the first to the second.

    Raises
    ------
    models.errors.InputError
        No image, one with a skull, or one that does not fit the brain of MNI.
    """
    making = fingerprint("own template", 1, file_hash(own), file_hash(mni), resolution_mm, seed)
    stem = f"tpl-own{making[:12]}"
    files = {
        "own_template": mni.parent / f"{stem}_T1w.nii.gz",
        "own_to_mni": mni.parent / f"{stem}_to-MNI_xfm.h5",
        "mni_to_own": mni.parent / f"{stem}_from-MNI_xfm.h5",  # the last one to be placed
    }
    if not all(path.exists() for path in files.values()):
        with TemporaryDirectory(dir=mni.parent) as folder:
            made = _registered(own, mni, resolution_mm, seed, Path(folder))
            for name, path in files.items():
                place(made[name], path)
    return {name: str(path) for name, path in files.items()}


def _registered(
    own: str, mni: Path, resolution_mm: float, seed: int, folder: Path
) -> dict[str, str]:
    image, _, _ = load_volume(own)
    outline = stripped_outline(image)
    if outline is None:
        raise InputError(
            f"--template {own}: shows more than a brain, or less; give the T1w brain of the "
            "template with everything around it set to 0"
        )
    brain = np.where(outline, np.asarray(image.dataobj, np.float32), 0)
    write_nifti(folder / "whole.nii.gz", brain, image.affine)
    write_nifti(folder / "mask.nii.gz", outline, image.affine)
    ants = deterministic_ants(seed)
    whole, mask, fixed = (
        ants.image_read(str(one)) for one in (folder / "whole.nii.gz", folder / "mask.nii.gz", mni)
    )
    moving = ants.resample_image(whole, (resolution_mm,) * 3, False, 0)
    ants.image_write(moving, str(folder / "own.nii.gz"))
    found = ants.registration(
        fixed,
        moving,
        "SyN",
        outprefix=str(folder / "own_"),
        write_composite_transform=True,
    )
    carried = ants.apply_transforms(
        fixed, mask, [found["fwdtransforms"]], interpolator="nearestNeighbor"
    )
    there = carried.numpy() > 0
    inside = np.asarray(read_nifti(mni).dataobj) > 0
    overlap = 2 * (there & inside).sum() / (there.sum() + inside.sum())
    if overlap < LEAST_OVERLAP:
        raise InputError(
            f"--template {own}: does not fit the brain of MNI (Dice {overlap:.2f}); is it a whole "
            "brain, and does its header say where up is?"
        )
    return {
        "own_template": str(folder / "own.nii.gz"),
        "mni_to_own": found["fwdtransforms"],
        "own_to_mni": found["invtransforms"],
    }
