"""ComBat: takes the mean and the spread of a site off images, learnt from training people alone.

Location and scale of every voxel are estimated per site and shrunk towards what they are over all
voxels (empirical Bayes; Johnson, Li & Rabinovic 2007, Biostatistics 8:118; for images Fortin et al.
2017, NeuroImage 161:149). What is learnt becomes one map of factors and one of shifts per site, so
that an image is harmonised without knowing any other image, nor its own label:

    y' = a y + b + (1 - a) x β

with x the covariates that are preserved. The packages were looked at first. neuroHarmonize 2.5.2
pins numpy below 2 and pandas below 3; neuroCombat 0.2.12 (2021) applies itself to new people only
without covariates, and is the oracle of the tests; combatlearn 2.3.0 fits and applies, but, like
the others, wants all voxels of all people in memory as float64. All three are under the MIT
license.

The diagnosis may take part in the estimation, so that sites with more patients are not thought to
have smaller brains. It is the training people's, and no term of it remains in the formula above:
the label of a person who is harmonised is never asked for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError
from models.training.kernels import voxel_blocks

BRAIN_SHARE = 0.95
CONVERGED = 1e-4
MOST_ROUNDS = 500
MUCH_CONFOUNDED = 0.3
HOPELESS = (
    "SITE AND DIAGNOSIS CANNOT BE TOLD APART: each site has people of one class only, or the "
    "covariates follow the class. Harmonisation takes the disease off together with the site, and "
    "without it the network may learn the scanner. No result of this cohort can be trusted"
)


@dataclass(frozen=True, eq=False)
class Combat:
    """What takes the sites off.

    Parameters
    ----------
    sites : tuple of str
        Whose maps these are.
    mask : numpy.ndarray
        (C, x, y, z) bool: the voxels that are changed. Zeros are no tissue and stay zero.
    factor, shift : numpy.ndarray
        (sites, v) float32, a and b of the v voxels in the mask.
    slopes : numpy.ndarray
        (p, v) float32, β of each covariate that is preserved.
    centre : numpy.ndarray
        (p,), mean of each covariate over the training images; x is what exceeds it.
    """

    sites: tuple[str, ...]
    mask: NDArray
    factor: NDArray
    shift: NDArray
    slopes: NDArray
    centre: NDArray

    def place(self, site: str) -> int:
        """Row of a site.

        Raises
        ------
        models.errors.InputError
            Nobody of that site was learnt from.
        """
        if site not in self.sites:
            raise InputError(
                f"site '{site}' has no training people, so its images cannot be harmonised (known: "
                f"{', '.join(self.sites)}): leave its people out, or train with some of them"
            )
        return self.sites.index(site)

    def apply(self, volume: NDArray, site: str, covariates: NDArray) -> NDArray:
        """Harmonise one image.

        Parameters
        ----------
        volume : (C, x, y, z) array
        site : str
        covariates : (p,) array
            What is not finite counts as the training people's mean.

        Returns
        -------
        (C, x, y, z) float32 array
        """
        changed = np.array(volume, np.float32)
        values = changed[self.mask]
        changed[self.mask] = self._values(values, self.place(site), covariates, slice(None))
        return changed

    def _values(self, values: NDArray, row: int, covariates: NDArray, some: slice) -> NDArray:
        factor = self.factor[row, some]
        beyond = np.nan_to_num(np.asarray(covariates, float) - self.centre)
        kept = (1 - factor) * (beyond.astype(np.float32) @ self.slopes[:, some])
        return np.where(values == 0, 0, factor * values + self.shift[row, some] + kept)


@dataclass(frozen=True, eq=False)
class Harmonised:
    """A cohort's images, harmonised when they are read.

    Parameters
    ----------
    volumes : (images, C, x, y, z) array
        Usually a memory map.
    combat : Combat
    sites : sequence of str
        Site of each image.
    covariates : (images, p) array
    """

    volumes: np.ndarray
    combat: Combat
    sites: Sequence[str]
    covariates: NDArray

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the images together."""
        return self.volumes.shape

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, rows: int | slice | Sequence[int]) -> NDArray:
        if isinstance(rows, int | np.integer):
            return self.combat.apply(self.volumes[rows], self.sites[rows], self.covariates[rows])
        return np.stack([self[int(row)] for row in np.arange(len(self))[rows]])

    def blocks(self, *, block_mb: float = 256) -> Iterator[NDArray]:
        """Voxels of all images, some at a time, as :func:`voxel_blocks` gives those unharmonised.

        Images of unknown sites are NaN: whoever fits on them, or tests them, sees it.
        """
        places = np.flatnonzero(self.combat.mask.ravel())
        known = {site: row for row, site in enumerate(self.combat.sites)}
        start = 0
        for block in voxel_blocks(self.volumes, block_mb=block_mb):
            low, high = np.searchsorted(places, (start, start + block.shape[1]))
            inside = places[low:high] - start
            for row, site in enumerate(self.sites):
                if site in known:
                    block[row, inside] = self.combat._values(
                        block[row, inside], known[site], self.covariates[row], slice(low, high)
                    )
                else:
                    block[row] = np.nan
            start += block.shape[1]
            yield block


def blocks_of(volumes: np.ndarray | Harmonised) -> Iterator[NDArray]:
    """Voxels of all images, some at a time, harmonised where they are."""
    return volumes.blocks() if isinstance(volumes, Harmonised) else voxel_blocks(volumes)


@dataclass(frozen=True, eq=False)
class Design:
    """Who the training images are of.

    Parameters
    ----------
    sites : sequence of str
        Site of each image.
    covariates : (images, p) array
        What the images keep; what is not finite takes the mean.
    names : sequence of str
        What each covariate is called, for messages.
    labels : (images,) bool array, optional
        Whom to tell apart from the sites while estimating; of the training people.
    """

    sites: Sequence[str]
    covariates: NDArray
    names: Sequence[str] = ()
    labels: NDArray | None = None


def fit(
    volumes: np.ndarray,
    design: Design,
    *,
    rows: Sequence[int] | None = None,
    block_mb: float = 256,
) -> tuple[Combat, list[str]]:
    """Learn what the sites add to images.

    Parameters
    ----------
    volumes : (images, C, x, y, z) array
        Usually a memory map.
    design : Design
        Of the training images, in the order of ``rows``.
    rows : sequence of int, optional
        The training images; no other is looked at. Default all.
    block_mb : float
        Memory of a block of voxels; beside it there are some (sites + covariates) maps.

    Returns
    -------
    Combat
    list of str
        What a reader must know of the estimate.

    Raises
    ------
    models.errors.InputError
        One site; a site with one image; a covariate that follows the sites; nothing varies.
    """
    names, columns, centre, notes = _columns(design)
    blocks = voxel_blocks(
        volumes, rows=rows, block_mb=block_mb / 4
    )  # four such arrays live at once
    mask, voxels = _moments(blocks, columns, len(names))
    if not len(voxels.mean):
        raise InputError("no voxel is tissue in most training images: look at the registration")
    star = [
        _shrunk(voxels.location[k], voxels.spread[k], int(columns[:, k].sum()))
        for k in range(len(names))
    ]
    location, spread = (np.array(one) for one in zip(*star, strict=True))
    factor = 1 / np.sqrt(spread)
    shift = voxels.mean * (1 - factor) - factor * voxels.sigma * location
    slopes = voxels.slopes[: design.covariates.shape[1]]
    factor, shift, slopes = (one.astype(np.float32) for one in (factor, shift, slopes))
    mask = mask.reshape(volumes.shape[1:])
    return Combat(tuple(names), mask, factor, shift, slopes, centre), notes


def _columns(design: Design) -> tuple[list[str], NDArray, NDArray, list[str]]:
    """Sites, then covariates and the label, both about their means; what to say of them."""
    sites = np.asarray(design.sites, str)
    names, counts = np.unique(sites, return_counts=True)
    if len(names) < 2:
        raise InputError(
            f"all training images are of one site ({names[0]}), so there is nothing to harmonise: "
            "leave [harmonisation] out"
        )
    if counts.min() < 2:
        raise InputError(
            f"site '{names[counts.argmin()]}' has one training image, which tells nothing of its "
            "spread: leave its people out, or join it with another site"
        )
    columns = (sites[:, None] == names[None]).astype(float)
    values = np.where(np.isfinite(design.covariates), design.covariates, np.nan)
    centre = np.nanmean(values, axis=0) if len(values.T) else np.zeros(0)
    for name, value in zip(design.names, np.nan_to_num(values - centre).T, strict=True):
        columns, told = _with(columns, value)
        if not told:
            raise InputError(
                f"covariate '{name}' cannot be told apart from the sites or from the covariates "
                "before it: take it out of [harmonisation] preserve"
            )
    notes = []
    if design.labels is not None:
        label = np.asarray(design.labels, float)
        columns, told = _with(columns, label - label.mean())
        notes = confounding(sites.tolist(), np.asarray(design.labels)) if told else [HOPELESS]
    return list(map(str, names)), columns, centre, notes


def _with(columns: NDArray, value: NDArray) -> tuple[NDArray, bool]:
    """The columns and one more, unless they already make it up."""
    left = value - columns @ np.linalg.lstsq(columns, value, rcond=None)[0]
    if np.linalg.norm(left) <= 1e-8 * max(float(np.linalg.norm(value)), 1e-300):
        return columns, False
    return np.column_stack([columns, value]), True


def confounding(sites: Sequence[str], labels: NDArray) -> list[str]:
    """Sentences to warn with where the sites and the label go together; none where they do not.

    Parameters
    ----------
    sites : sequence of str
        Site of each image.
    labels : (images,) bool array
    """
    names, labels = np.asarray(sites, str), np.asarray(labels, bool)
    share = {site: labels[names == site].mean() for site in np.unique(names)}
    if set(share.values()) <= {0, 1}:
        return [HOPELESS]
    overall = labels.mean()
    chi2 = sum((names == site).mean() * (one - overall) ** 2 for site, one in share.items())
    strength = float(np.sqrt(chi2 / (overall * (1 - overall))))  # Cramér's V of a 2 x sites table
    if strength < MUCH_CONFOUNDED:
        return []
    listed = ", ".join(f"{site} {one:.0%}" for site, one in share.items())
    return [
        f"site and diagnosis go together (Cramér's V {strength:.2f}; positive of {listed}): what "
        "harmonisation takes off may be disease, and what it leaves may be the scanner"
    ]


@dataclass(frozen=True, eq=False)
class _Voxels:
    """Least squares in each voxel of the mask: (v,), but (sites, v) and (columns, v) for three."""

    mean: NDArray
    sigma: NDArray
    slopes: NDArray
    location: NDArray
    spread: NDArray


def _moments(blocks: Iterator[NDArray], columns: NDArray, sites: int) -> tuple[NDArray, _Voxels]:
    kept, found = [], []
    for block in blocks:
        some = ((block != 0).mean(0) >= BRAIN_SHARE) & (np.ptp(block, axis=0) > 0)
        values = _least_squares(block[:, some], columns, sites)
        clear = values.sigma > 1e-6 * np.maximum(np.abs(values.mean), 1e-12)
        some[some] = clear
        kept.append(some)
        found.append(_Voxels(*(one[..., clear] for one in vars(values).values())))
    joined = {
        name: np.concatenate([getattr(one, name) for one in found], axis=-1)
        for name in vars(found[0])
    }
    return np.concatenate(kept), _Voxels(**joined)


def _least_squares(block: NDArray, columns: NDArray, sites: int) -> _Voxels:
    """Standardise as Johnson 2007, section 3.1, steps 1 and 2."""
    weights = np.linalg.lstsq(columns, block, rcond=None)[0]
    of_site = columns[:, :sites]
    mean = of_site.mean(0) @ weights[:sites]
    left = block - columns @ weights
    sigma = np.sqrt((left**2).mean(0))
    scale = np.where(sigma > 0, sigma, 1)
    location = (weights[:sites] - mean) / scale
    counts = of_site.sum(0)[:, None]
    # With covariates, residuals of a site have no mean of their own: the site is in the columns.
    spread = (of_site.T @ (left / scale) ** 2) / (counts - 1)
    return _Voxels(mean, sigma, weights[sites:], location, np.where(spread > 0, spread, 1))


def _shrunk(location: NDArray, spread: NDArray, count: int) -> tuple[NDArray, NDArray]:
    """Posterior location and spread of one site (Johnson 2007, equation 3.1; step 3).

    The priors are fitted by moments over the voxels; both are found in turns.
    """
    centre, variance = location.mean(), location.var(ddof=1) if len(location) > 1 else 0.0
    mean, wide = spread.mean(), spread.var(ddof=1) if len(spread) > 1 else 0.0
    if wide == 0 or variance == 0:
        return location, spread
    a, b = (2 * wide + mean**2) / wide, (mean * wide + mean**3) / wide
    old, wider = location, spread
    for _ in range(MOST_ROUNDS):
        new = (variance * count * location + wider * centre) / (variance * count + wider)
        square = (count - 1) * spread + count * (location - new) ** 2
        narrow = (0.5 * square + b) / (count / 2 + a - 1)
        change = max(_change(new, old), _change(narrow, wider))
        old, wider = new, narrow
        if change <= CONVERGED:
            break
    return old, wider


def _change(new: NDArray, old: NDArray) -> float:
    return float(np.max(np.abs(new - old) / np.maximum(np.abs(old), 1e-12)))
