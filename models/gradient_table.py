"""The table of diffusion gradients: checked, turned into world axes, and divided into shells."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.errors import InputError

B0_MAX = 50.0  # s/mm^2; scanners write 1.25 or 5 for images without diffusion weighting
SHELL_WIDTH = 100.0  # s/mm^2; b-values of one shell differ by less
TENSOR_B_MAX = 1500.0  # s/mm^2; above, the signal leaves the tensor model
FEWEST_DIRECTIONS = 6
SAME_DEGREES = 2.0  # two directions closer than this are one
WELL_SPREAD = 1e3  # condition number of the tensor's design; 6 icosahedral directions have 2


@dataclass(frozen=True)
class GradientTable:
    """Diffusion weighting of each volume.

    Attributes
    ----------
    b_values : (n,) array
        s/mm^2; those up to :data:`B0_MAX` are b0s.
    directions : (n, 3) array
        Unit vectors along the RAS+ world axes, 0 for b0s.
    """

    b_values: np.ndarray
    directions: np.ndarray

    @property
    def is_b0(self) -> np.ndarray:
        """Which volumes have no diffusion weighting, (n,) bool."""
        return self.b_values <= B0_MAX

    @property
    def shells(self) -> list[float]:
        """Mean b-value of each shell, the b0s left out, ascending."""
        values = np.sort(self.b_values[~self.is_b0])
        cuts = np.flatnonzero(np.diff(values) > SHELL_WIDTH) + 1
        return [float(one.mean()) for one in np.split(values, cuts) if len(one)]

    def on_shell(self, b_value: float) -> np.ndarray:
        """Which volumes are of the shell with this mean, (n,) bool."""
        nearest = np.abs(self.b_values[:, None] - np.array(self.shells)).argmin(1)
        return ~self.is_b0 & (nearest == self.shells.index(b_value))

    def __getitem__(self, rows: np.ndarray | Sequence[int]) -> "GradientTable":
        return GradientTable(self.b_values[rows], self.directions[rows])

    def rotated(self, rotations: np.ndarray) -> "GradientTable":
        """The table when each head was turned by its own (n, 3, 3) rotation, along world axes."""
        return replace(self, directions=np.einsum("nij,nj->ni", rotations, self.directions))

    def design(self) -> np.ndarray:
        """Design matrix (n, 7) of the log signal: -b times the products of a direction, and 1.

        The six components come in the order of `models.tensor`, each off-diagonal one twice.
        """
        x, y, z = self.directions.T
        products = np.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z], 1)
        return np.column_stack([-self.b_values[:, None] * products, np.ones(len(x))])


def checked(
    b_values: np.ndarray,
    b_vectors: np.ndarray,
    *,
    volumes: int,
    affine: np.ndarray,
    source: str,
) -> tuple[GradientTable, list[str]]:
    """Check a table as FSL and BIDS write it, and turn it into world axes.

    Parameters
    ----------
    b_values : array
        Of any shape; s/mm^2.
    b_vectors : array
        (3, n), or its transpose.
    volumes : int
        Of the image.
    affine : (4, 4) array
        Of the image as stored: the vectors are along its axes.
    source : str
        The image's file, for sentences.

    Returns
    -------
    table : GradientTable
    notes : list of str
        Sentences about what had to be mended.

    Raises
    ------
    models.errors.InputError
        Wrong length, not a number, no b0.
    """
    notes: list[str] = []
    values = np.asarray(b_values, float).ravel()
    vectors, turned = _three_columns(np.asarray(b_vectors, float), source)
    if turned:
        notes.append("the .bvec file holds one volume per row: it was transposed")
    for what, count in ((".bval", len(values)), (".bvec", len(vectors))):
        if count != volumes:
            raise InputError(
                f"{source}: has {volumes} volumes, but its {what} file has {count}; export the "
                "three files again, together"
            )
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"{source}: its .bval file holds values below 0 or no numbers; mend it")
    b0 = values <= B0_MAX
    if not b0.any():
        raise InputError(
            f"{source}: has no volume without diffusion weighting (b up to {B0_MAX:g} s/mm^2, the "
            f"lowest is {values.min():g}); add the b0 to the series and to its .bval and .bvec"
        )
    vectors[b0] = 0
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(lengths).all() or (lengths[~b0] < 1e-6).any():
        which = np.flatnonzero(~b0 & ~(lengths >= 1e-6))
        raise InputError(
            f"{source}: volume {which[0]} has b = {values[which[0]]:g} but no direction in the "
            ".bvec file (is it a trace image of the scanner?); take such volumes out of all three "
            "files"
        )
    off = np.abs(lengths[~b0] - 1).max(initial=0)
    if off > 0.01:
        notes.append(
            f"b-vectors are up to {off:.0%} off unit length: they were scaled to it, and b-values "
            "kept as they are"
        )
    vectors[~b0] /= lengths[~b0, None]
    return GradientTable(values, along_world(vectors, affine)), notes


def _three_columns(vectors: np.ndarray, source: str) -> tuple[np.ndarray, bool]:
    """Vectors as (n, 3), and whether the file had them like that, against the convention."""
    vectors = np.atleast_2d(vectors)
    if vectors.ndim == 2 and vectors.shape[0] == 3:
        return vectors.T.copy(), False
    if vectors.ndim == 2 and vectors.shape[1] == 3:
        return vectors.copy(), True
    raise InputError(
        f"{source}: its .bvec file holds {'x'.join(map(str, vectors.shape))} numbers; three rows "
        "are needed, with one column per volume"
    )


def along_world(vectors: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """FSL's b-vectors (n, 3), along an image's axes, along the RAS+ world axes.

    FSL counts x from right to left whatever the file does: where the affine has a positive
    determinant (RAS and its even turns), the sign of x is the opposite of the file's axis.
    """
    flip = np.array([-1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0, 1, 1])
    return (vectors * flip) @ _axes(affine).T


def along_image(directions: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """World directions (n, 3) as FSL's b-vectors of an image: the inverse of `along_world`."""
    flip = np.array([-1.0 if np.linalg.det(affine[:3, :3]) > 0 else 1.0, 1, 1])
    return (directions @ _axes(affine)) * flip


def _axes(affine: np.ndarray) -> np.ndarray:
    """The nearest rotation or reflection (3, 3) to the image's axes."""
    left, _, right = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return left @ right


def for_tensor(table: GradientTable, *, source: str) -> tuple[np.ndarray, list[str]]:
    """Choose the volumes that a tensor is fitted to: b0s, and shells up to b = 1500.

    Where no such shell has enough directions, the shells are taken from the lowest on until they
    have, and a sentence says so.

    Returns
    -------
    chosen : (n,) bool array
    notes : list of str

    Raises
    ------
    models.errors.InputError
        Fewer than six directions in all, or all in one plane.
    """
    shells = table.shells
    low = [shell for shell in shells if shell <= TENSOR_B_MAX + SHELL_WIDTH / 2]
    for count in range(max(len(low), 1), len(shells) + 1):
        chosen = table.is_b0 | np.any([table.on_shell(one) for one in shells[:count]], axis=0)
        if is_enough(table[chosen]):
            return chosen, _shell_notes(shells, count)
    found = distinct_directions(table.directions[~table.is_b0])
    why = "and they do not span space" if found >= FEWEST_DIRECTIONS else "which"
    raise InputError(
        f"{source}: has {found} different gradient directions, {why} cannot make a tensor: at "
        f"least {FEWEST_DIRECTIONS} are needed; use the whole series, or leave this scan out by "
        "--bids-filter-file"
    )


def is_enough(table: GradientTable) -> bool:
    """Whether a tensor and a b0 signal can be told from these volumes."""
    if not len(table.b_values) or not table.is_b0.any():
        return False
    if distinct_directions(table.directions[~table.is_b0]) < FEWEST_DIRECTIONS:
        return False
    design = table.design()
    scaled = design / np.linalg.norm(design, axis=0).clip(1e-12)
    return bool(np.linalg.cond(scaled) < WELL_SPREAD)


def _shell_notes(shells: Sequence[float], count: int) -> list[str]:
    used = ", ".join(f"{one:g}" for one in np.round(shells[:count], 0))
    highest = shells[count - 1]
    notes = []
    if highest > TENSOR_B_MAX + SHELL_WIDTH / 2:
        notes.append(
            f"no shell up to b = {TENSOR_B_MAX:g} has enough directions: the tensor was fitted at "
            f"b = {used}, where it underestimates diffusivity"
        )
    if count < len(shells):
        left = ", ".join(f"{one:g}" for one in np.round(shells[count:], 0))
        notes.append(f"the tensor was fitted at b = {used}; b = {left} was left out")
    return notes


def distinct_directions(directions: np.ndarray) -> int:
    """Number of directions (n, 3) that are not the same line."""
    kept: list[np.ndarray] = []
    same = np.cos(np.deg2rad(SAME_DEGREES))
    for one in directions:
        if all(abs(float(one @ other)) < same for other in kept):
            kept.append(one)
    return len(kept)
