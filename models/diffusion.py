"""Diffusion-weighted signal: tensor fit, damaged slices, motion and noise.

Arrays are (x, y, z, n) with one volume per row of a `models.gradient_table.GradientTable`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from models.errors import InputError
from models.gradient_table import B0_MAX, GradientTable
from models.tensor import COLUMNS, ROWS

FITS = ("WLS", "OLS", "NLLS", "RESTORE")
FLOOR_SHARE = 0.01  # of the b0 signal: the least signal whose logarithm is taken
FEWEST_FOR_EDDIES = 10  # weighted volumes from which eddy currents are told from motion
HEAD_RADIUS_MM = 50.0  # turns a rotation into a displacement (Power et al. 2012)

# A slice is damaged where its signal lies below what the other volumes foretell: by this share at
# least, and less likely than this by chance in any volume of the slice.
OUTLYING_SHARE, CHANCE = 0.10, 1e-3
FEWEST_SLICE_VOXELS = 50
OUTLYING_SLICES = 0.10  # a volume with more damaged slices than this is left out


# --- tensor --------------------------------------------------------------------------------------


def fit_tensor(
    data: np.ndarray,
    table: GradientTable,
    mask: np.ndarray,
    *,
    method: str = "WLS",
    noise_sd: float | None = None,
) -> np.ndarray:
    """Fit a tensor in each voxel, by dipy.

    Parameters
    ----------
    data : (x, y, z, n) array
    table : GradientTable
        Directions along world axes: so are the tensors.
    mask : (x, y, z) bool array
    method : {"WLS", "OLS", "NLLS", "RESTORE"}
        Weighted or ordinary least squares of the log signal, nonlinear least squares of the
        signal, or these without outliers (Chang et al. 2005).
    noise_sd : float
        Standard deviation of the noise; RESTORE needs it.

    Returns
    -------
    (x, y, z, 6) float32 array
        Dxx, Dxy, Dxz, Dyy, Dyz, Dzz in mm^2/s; 0 outside the mask.
    """
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    if method not in FITS:
        raise InputError(f"tensor fit '{method}' is unknown; choose one of: {', '.join(FITS)}")
    gradients = gradient_table(
        table.b_values, bvecs=table.directions, b0_threshold=B0_MAX, atol=1e-2
    )
    options = {"sigma": noise_sd} if method == "RESTORE" else {}
    model = TensorModel(gradients, fit_method=method, **options)
    form = model.fit(_floored(data, table, mask)[mask]).quadratic_form
    tensors = np.zeros((*mask.shape, 6), np.float32)
    tensors[mask] = form[..., ROWS, COLUMNS]
    return tensors


def _floored(data: np.ndarray, table: GradientTable, mask: np.ndarray) -> np.ndarray:
    """The data with the least signal whose logarithm still tells something."""
    b0 = data[..., table.is_b0].mean(-1)
    return np.maximum(data, FLOOR_SHARE * max(float(np.median(b0[mask])), 1e-6))


def residual_percent(
    data: np.ndarray, table: GradientTable, mask: np.ndarray, tensors: np.ndarray
) -> float:
    """Median absolute residual of the tensor's signal, in percent of the b0 signal."""
    weights = table.design()[:, :6]
    b0 = data[..., table.is_b0].mean(-1)[mask]
    expected = b0[:, None] * np.exp(tensors[mask].astype(float) @ weights.T)
    weighted = ~table.is_b0
    off = np.abs(data[mask] - expected)[:, weighted] / np.maximum(b0[:, None], 1e-6)
    return float(100 * np.median(off))


# --- damaged slices ------------------------------------------------------------------------------


def damaged_slices(
    data: np.ndarray, table: GradientTable, mask: np.ndarray, axis: int = 2
) -> np.ndarray:
    """Slices whose signal drops below what the other volumes foretell.

    The mean log signal of a slice's brain follows the tensor model, too, since the design is the
    same in all voxels. Suspects are those below a fit of least absolute deviations, which few bad
    values do not bend; each is then judged by a fit that no suspect has a part in.

    Parameters
    ----------
    data : (x, y, z, n) array
        Aligned volumes.
    axis : int
        Across slices.

    Returns
    -------
    (slices, n) bool array
        Never of b0s.
    """
    log = np.log(_floored(data, table, mask))
    damaged = np.zeros((mask.shape[axis], len(table.b_values)), bool)
    for number in np.flatnonzero(np.moveaxis(mask, axis, 0).sum((1, 2)) >= FEWEST_SLICE_VOXELS):
        inside = np.take(mask, number, axis)
        damaged[number] = _drops(np.take(log, number, axis)[inside].mean(0), table)
    return damaged


def _drops(signal: np.ndarray, table: GradientTable) -> np.ndarray:
    """Volumes whose log signal (n,) lies far below the tensor of the others, (n,) bool."""
    design, least = table.design(), np.log(1 - OUTLYING_SHARE)
    suspects = ~table.is_b0 & (signal - design @ _least_absolute(design, signal) < least)
    freedom = int((~suspects).sum()) - design.shape[1]
    if not suspects.any() or freedom < 2:
        return np.zeros(len(signal), bool)
    difference, error = _foretold(design[~suspects], signal[~suspects], design, signal)
    score = difference / np.maximum(error, 1e-9)
    return suspects & (difference < least) & (score < -t.ppf(1 - CHANCE / len(signal), freedom))


def _least_absolute(design: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Coefficients with the least sum of absolute residuals, by reweighted least squares."""
    found = np.linalg.lstsq(design, signal)[0]
    for _ in range(50):
        root = np.sqrt(1 / np.maximum(np.abs(signal - design @ found), 1e-6))
        found = np.linalg.lstsq(design * root[:, None], signal * root)[0]
    return found


def _foretold(
    design: np.ndarray, signal: np.ndarray, asked: np.ndarray, given: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Difference of given values from what a fit foretells, and its standard error."""
    inverse = np.linalg.pinv(design.T @ design)
    found = inverse @ design.T @ signal
    variance = ((signal - design @ found) ** 2).sum() / (len(signal) - design.shape[1])
    spread = 1 + np.einsum("ij,jk,ik->i", asked, inverse, asked)
    return given - asked @ found, np.sqrt(variance * spread)


def outlying_volumes(damaged: np.ndarray, mask: np.ndarray, axis: int = 2) -> np.ndarray:
    """Volumes with too many damaged slices of the brain, (n,) bool."""
    counts = mask.sum(tuple(other for other in range(3) if other != axis))
    brain = counts >= FEWEST_SLICE_VOXELS
    if not brain.any():
        return np.zeros(damaged.shape[1], bool)
    return np.asarray(damaged[brain].mean(0) > OUTLYING_SLICES)


# --- motion --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Motion:
    """Where the head was in each volume, against the reference.

    Attributes
    ----------
    shifts_mm : (n, 3) array
        Of the brain's centre, along the image's axes.
    turns_degrees : (n, 3) array
        About the image's axes.
    """

    shifts_mm: np.ndarray
    turns_degrees: np.ndarray

    @classmethod
    def of(cls, rigid: np.ndarray, centre_mm: np.ndarray) -> "Motion":
        """By rigid transforms (n, 4, 4) and the brain's centre (3,), both in mm."""
        from scipy.spatial.transform import Rotation

        moved = rigid[:, :3, :3] @ centre_mm + rigid[:, :3, 3] - centre_mm
        turns = Rotation.from_matrix(rotations(rigid)).as_rotvec(degrees=True)
        return cls(moved, turns)

    def without_eddies(self, table: GradientTable, axis: int) -> "Motion":
        """The head's part, as far as it can be told from what the gradients did to the image.

        Eddy currents shift and shear an image along its phase encoding in proportion to the
        gradients (Andersson and Sotiropoulos 2016), and a shear looks like a turn about the other
        axes. What of these follows the direction of the gradients is taken out.

        Parameters
        ----------
        table : GradientTable
            Of the volumes; too few directions leave everything as it is.
        axis : int
            The phase-encoding axis; -1 where nothing tells it.
        """
        if axis < 0 or (~table.is_b0).sum() < FEWEST_FOR_EDDIES:
            return self
        shifts, turns = self.shifts_mm.copy(), self.turns_degrees.copy()
        shifts[:, axis] = _not_of_gradients(shifts[:, axis], table)
        for other in range(3):
            if other != axis:
                turns[:, other] = _not_of_gradients(turns[:, other], table)
        return Motion(shifts, turns)

    @property
    def displacement_mm(self) -> np.ndarray:
        """Framewise displacement (n,): from one volume to the next, the first 0."""
        steps = np.abs(np.diff(self.shifts_mm, axis=0)).sum(1)
        turns = np.abs(np.diff(np.deg2rad(self.turns_degrees), axis=0)).sum(1)
        return np.concatenate([[0.0], steps + HEAD_RADIUS_MM * turns])


def _not_of_gradients(values: np.ndarray, table: GradientTable) -> np.ndarray:
    """Values (n,) less what is linear in the gradient, by least squares over weighted volumes."""
    weighted = ~table.is_b0
    strength = table.b_values[weighted] / table.b_values.max()
    gradients = table.directions[weighted] * np.sqrt(strength)[:, None]
    design = np.column_stack([np.ones(len(gradients)), gradients])
    left = values.copy()
    left[weighted] -= gradients @ np.linalg.lstsq(design, values[weighted])[0][1:]
    return left


def rotations(matrices: np.ndarray) -> np.ndarray:
    """The nearest rotations (n, 3, 3) to linear transforms (n, 4, 4)."""
    left, _, right = np.linalg.svd(matrices[:, :3, :3])
    return left @ right


# --- noise ---------------------------------------------------------------------------------------


def signal_to_noise(
    data: np.ndarray, table: GradientTable, mask: np.ndarray, noise_sd: float
) -> tuple[float, float]:
    """Median signal of the brain over the noise: of the b0s, and of the weighted volumes."""
    b0 = np.median(data[mask][:, table.is_b0])
    weighted = np.median(data[mask][:, ~table.is_b0])
    return float(b0 / noise_sd), float(weighted / noise_sd)
