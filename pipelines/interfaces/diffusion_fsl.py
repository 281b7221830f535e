"""What FSL's topup and eddy are given, and what becomes of their results; FSL is the user's own.

FSL takes an image's x axis from right to left whatever the file says. So it is given images with
LAS axes, where both agree, and its results are turned back to RAS+.

Andersson JLR, Skare S, Ashburner J (2003), NeuroImage 20:870 (topup); Andersson JLR, Sotiropoulos
SN (2016), NeuroImage 125:1063 (eddy).
"""

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)
from scipy import ndimage

from models.errors import InputError
from models.gradient_table import GradientTable, along_world
from pipelines.gradient_files import load_table, save_table, write_fsl
from pipelines.images import read_nifti, write_nifti
from pipelines.inputs import metadata_of
from pipelines.interfaces.diffusion import b0_mask
from pipelines.interfaces.diffusion_motion import AROUND_BRAIN_VOXELS, opposite_b0
from pipelines.phase_encoding import PhaseEncoding, phase_encoding_of

# Names of eddy by FSL's version; nipype falls back from the first to the second.
EDDIES = ("eddy_openmp", "eddy")
OWN, OPPOSITE = 1, 2  # rows of the file of acquisition parameters


def check_fsl(*, pair: bool) -> None:
    """Raise where FSL was asked for and cannot run.

    Parameters
    ----------
    pair : bool
        Whether there is an image of opposite phase encoding, for topup.

    Raises
    ------
    models.errors.InputError
        A program is not on PATH.
    """
    lacking = [] if any(map(shutil.which, EDDIES)) else ["eddy"]
    lacking += [] if not pair or shutil.which("topup") else ["topup"]
    if lacking:
        raise InputError(
            f"[preprocessing.dwi] motion = 'fsl': {' and '.join(lacking)} of FSL is not on PATH; "
            "install FSL and source its fsl.sh, or choose motion = 'ants', which needs no FSL"
        )


def acquisition(encoding: PhaseEncoding, affine: np.ndarray, path: Path) -> list[float]:
    """A row of FSL's acquisition parameters: the way along each axis of LAS, and seconds.

    Parameters
    ----------
    encoding : PhaseEncoding
        Of the raw file's axes.
    affine : (4, 4) array
        Of the raw file.

    Raises
    ------
    models.errors.InputError
        The sidecar does not say what FSL must know.
    """
    lacking = ["PhaseEncodingDirection"] * (encoding.axis is None or not encoding.sign)
    lacking += ["TotalReadoutTime"] * (encoding.readout_s is None)
    if lacking or encoding.axis is None or encoding.readout_s is None:
        raise InputError(
            f"{path}: its sidecar has no {' and no '.join(lacking)}, without which FSL's eddy "
            "cannot work; add it, or choose [preprocessing.dwi] motion = 'ants'"
        )
    axis, turned = nib.io_orientation(affine)[encoding.axis]
    row = [0.0, 0.0, 0.0, encoding.readout_s]
    row[int(axis)] = encoding.sign * turned * (-1 if axis == 0 else 1)
    return row


def las(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine with the x axis of an RAS+ image turned; and the other way round."""
    turned = affine.copy()
    turned[:, 0] = -affine[:, 0]
    turned[:3, 3] = (affine @ [data.shape[0] - 1, 0, 0, 1])[:3]
    return data[::-1], turned


# --- what topup and eddy are given ---------------------------------------------------------------


class ForFslInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="series with RAS+ axes")
    table = File(exists=True, mandatory=True)
    source = File(exists=True, mandatory=True, desc="the raw series")
    opposite = File(exists=True, desc="raw image of opposite polarity")


class ForFslOutputSpec(TraitedSpec):
    series = File(exists=True)
    mask = File(exists=True, desc="brain and a margin")
    index = File(exists=True)
    parameters = File(exists=True, desc="acquisition parameters")
    b_values = File(exists=True)
    b_vectors = File(exists=True)
    pair = File(exists=True, desc="both b0s, for topup")


class ForFsl(SimpleInterface):
    """Write the series, its table, mask and acquisition parameters as FSL reads them."""

    input_spec = ForFslInputSpec
    output_spec = ForFslOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd = self.inputs, Path(runtime.cwd)
        image, table = read_nifti(given.in_file), load_table(given.table)
        data = np.asarray(image.dataobj, np.float32)
        b0 = data[..., int(np.flatnonzero(table.is_b0)[0])]
        brain = b0_mask(b0, image.affine)
        around = ndimage.binary_dilation(brain, iterations=AROUND_BRAIN_VOXELS)
        files = {name: cwd / f"{name}.nii.gz" for name in ("series", "mask")}
        write_nifti(files["series"], *las(data, image.affine))
        write_nifti(files["mask"], *las(around if brain.any() else ~brain, image.affine))
        files |= {"b_values": cwd / "table.bval", "b_vectors": cwd / "table.bvec"}
        turned = las(b0, image.affine)[1]
        write_fsl(table, turned, files["b_values"], files["b_vectors"])
        files["index"] = cwd / "index.txt"
        files["index"].write_text(" ".join([str(OWN)] * data.shape[3]) + "\n")
        rows = [self._row(Path(given.source))]
        if isdefined(given.opposite):
            rows.append(self._row(Path(given.opposite)))
            files["pair"] = cwd / "pair.nii.gz"
            grid = nib.Nifti1Image(b0, image.affine)
            both = np.stack([b0, opposite_b0(Path(given.opposite), grid)], -1)
            write_nifti(files["pair"], *las(both, image.affine))
        files["parameters"] = cwd / "parameters.txt"
        np.savetxt(files["parameters"], rows, fmt="%d %d %d %.6f")
        self._results |= {name: str(file) for name, file in files.items()}
        return runtime

    def _row(self, path: Path) -> list[float]:
        affine = nib.Nifti1Image.from_filename(path).affine
        encoding = phase_encoding_of(path)
        if encoding.readout_s is None and path != Path(self.inputs.source):
            seconds = metadata_of(Path(self.inputs.source)).get("TotalReadoutTime")
            encoding = PhaseEncoding(encoding.axis, encoding.sign, seconds, encoding.source)
        return acquisition(encoding, affine, path)


# --- what becomes of eddy's results --------------------------------------------------------------


class FromFslInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="eddy's series, LAS")
    b_vectors = File(exists=True, mandatory=True, desc="turned by eddy")
    parameters = File(exists=True, mandatory=True, desc="shifts, turns and eddy currents")
    displacement = File(exists=True, desc="mm: against the first volume, and the one before")
    table = File(exists=True, mandatory=True, desc="of the series before")
    pair = traits.Bool(False, usedefault=True, desc="whether topup ran")


class FromFslOutputSpec(TraitedSpec):
    out_file = File(exists=True)
    table = File(exists=True, desc="directions turned with the head")
    motion = traits.Dict(desc="shifts_mm, turns_degrees, displacement_mm")
    meta = traits.Dict


class FromFsl(SimpleInterface):
    """Eddy's series and directions along RAS+, and the head's motion as eddy tells it."""

    input_spec = FromFslInputSpec
    output_spec = FromFslOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd = self.inputs, Path(runtime.cwd)
        image, before = read_nifti(given.in_file), load_table(given.table)
        data, affine = las(np.asarray(image.dataobj, np.float32), image.affine)
        write_nifti(cwd / "aligned.nii", np.nan_to_num(data).clip(0), affine)
        turned = along_world(np.loadtxt(given.b_vectors).T, image.affine)
        turned[before.is_b0] = 0
        lengths = np.linalg.norm(turned, axis=1, keepdims=True).clip(1e-12)
        table = GradientTable(before.b_values, np.where(before.is_b0[:, None], 0, turned / lengths))
        self._results |= {
            "out_file": str(cwd / "aligned.nii"),
            "table": str(save_table(table, cwd / "table.json")),
            "motion": motion_of(given.parameters, given.displacement or ""),
            "meta": {
                "MotionCorrection": "eddy of FSL",
                "GradientDirections": "turned by eddy",
                "Interpolation": "cubic splines of eddy, once, negative values cut; signal "
                "multiplied by the Jacobian",
                "Determinism": "as far as FSL's eddy repeats itself",
                "SusceptibilityDistortion": "topup of FSL, applied by eddy"
                if given.pair
                else "no image of opposite phase encoding was found",
            },
        }
        return runtime


def motion_of(parameters: str, displacement: str = "") -> dict[str, list[Any]]:
    """The head's shifts (mm), turns (degrees) and displacement (mm) by the files of eddy.

    Parameters
    ----------
    parameters : path
        A row per volume: three shifts in mm, three turns in radians, then eddy currents.
    displacement : path
        A row per volume: mean displacement in mm against the first one, and the one before.
        Without it, steps are those of the shifts.
    """
    rows = np.atleast_2d(np.loadtxt(parameters))
    shifts, turns = rows[:, :3], np.rad2deg(rows[:, 3:6])
    if displacement:
        steps = np.atleast_2d(np.loadtxt(displacement))[:, 1]
    else:
        steps = np.linalg.norm(np.diff(shifts, axis=0, prepend=shifts[:1]), axis=1)
    return {
        "shifts_mm": shifts.round(3).tolist(),
        "turns_degrees": turns.round(3).tolist(),
        "displacement_mm": steps.round(3).tolist(),
    }
