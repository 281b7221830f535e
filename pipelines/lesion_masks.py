"""Lesion masks of a dataset: which belongs to which image, and whether it can be one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from models.errors import InputError
from pipelines.images import check_placement, is_sheared
from pipelines.inputs import Scan, unreadable

LABELS = ("lesion", "L")  # the second is what BIDS derivatives write
SUFFIXES = ("mask", "dseg")
OF_IMAGE = ("", "FLAIR", "orig", "native", "individual", "scanner")  # spaces of the image itself
OF_T1W = ("T1w",)
CUT = 0.5  # of values between 0 and 1
ROUNDING = 1e-4  # of scaled integers, and of masks that were resampled
NAMED = 5  # people in one sentence
REFUSED = "LesionMaskRefused"  # field of the sidecar of the quality numbers


def lesion_sources(
    bids_dir: Path, derivatives: Mapping[str, str], output_dir: Path
) -> dict[str, Path]:
    """Folders that may hold masks: those given by name, then the dataset's own derivatives.

    Parameters
    ----------
    derivatives : mapping of str to str
        ``--derivatives``: name to folder.
    output_dir : Path
        Never looked into: the masks there are copies.

    Raises
    ------
    models.errors.InputError
        A folder that was given is not there.
    """
    sources = {name: Path(folder).absolute() for name, folder in derivatives.items()}
    for name, folder in sources.items():
        if not folder.is_dir():
            raise InputError(f"--derivatives {name}={folder}: there is no such folder")
    below = bids_dir / "derivatives"
    if below.is_dir():
        for folder in sorted(path for path in below.iterdir() if path.is_dir()):
            if folder not in sources.values():
                sources.setdefault(folder.name, folder)
    return {name: folder for name, folder in sources.items() if not _same(folder, output_dir)}


def _same(first: Path, second: Path) -> bool:
    return first.exists() and second.exists() and first.samefile(second)


def with_lesions(
    scans: Sequence[Scan], people: Iterable[str], sources: Mapping[str, Path]
) -> tuple[list[Scan], list[str]]:
    """Give each scan its lesion mask.

    Parameters
    ----------
    scans : sequence of Scan
    people : iterable of str
        Whose masks are looked for; a mask without a scan is said.
    sources : mapping of str to Path
        See :func:`lesion_sources`; the first that holds a mask wins.

    Returns
    -------
    scans : list of Scan
        ``lesions`` is None for who has none.
    warnings : list of str
    """
    found: dict[tuple[str, str], list[tuple[str, Path]]] = {}
    for person in people:
        for name, folder in sources.items():
            for path in _masks(folder, person):
                key = person, entities(path).get("ses", "")
                found.setdefault(key, []).append((name, path))
    joined, warnings = [], []
    for scan in scans:
        candidates = found.pop((scan.participant, scan.session), [])
        chosen, said = _choose(scan, candidates)
        warnings += said
        joined.append(replace(scan, lesions=chosen))
    for (person, session), masks in sorted(found.items()):
        who = f"sub-{person}" + f" ses-{session}" * bool(session)
        warnings.append(f"{who}: {masks[0][1].name} is a lesion mask without an image; passed over")
    lacking = [one for one in joined if one.lesions is None]
    if lacking and len(lacking) < len(joined):
        warnings += [f"{_who(one)}: has no lesion mask, others have" for one in lacking]
    return joined, warnings


def masks_of_others(people: Iterable[str], sources: Mapping[str, Path]) -> list[str]:
    """Sentences about masks of people whom the dataset does not have."""
    known, said = set(people), []
    for name, folder in sources.items():
        others = sorted({path.name.removeprefix("sub-") for path in folder.glob("sub-*")} - known)
        having = [f"sub-{person}" for person in others if _masks(folder, person)]
        if having:
            more = f" and {len(having) - NAMED} more" * (len(having) > NAMED)
            said.append(
                f"{', '.join(having[:NAMED])}{more}: have lesion masks in {name}, but no images in "
                "the dataset; passed over"
            )
    return said


def _who(scan: Scan) -> str:
    return f"sub-{scan.participant}" + f" ses-{scan.session}" * bool(scan.session)


def _masks(folder: Path, person: str) -> list[Path]:
    """Files of one person, by name, that call themselves lesion masks."""
    return sorted(
        path
        for path in (folder / f"sub-{person}").rglob(f"sub-{person}_*.nii*")
        if path.name.split(".")[0].rpartition("_")[2] in SUFFIXES
        and entities(path).get("label") in LABELS
    )


def entities(path: Path) -> dict[str, str]:
    """Entities of a file name."""
    pairs = (part.partition("-") for part in path.name.split(".")[0].split("_") if "-" in part)
    return {key: value for key, _, value in pairs}


def _choose(scan: Scan, candidates: Sequence[tuple[str, Path]]) -> tuple[Path | None, list[str]]:
    """The first mask that may be of this image, and sentences about the others."""
    mine, warnings, image = [], [], entities(scan.path)
    for name, path in candidates:
        theirs = entities(path)
        problem = unreadable(path)
        if problem:
            warnings.append(f"{_who(scan)}: lesion mask {problem}; passed over")
        elif any(theirs.get(key, image.get(key)) != image.get(key) for key in ("acq", "run", "ce")):
            warnings.append(f"{_who(scan)}: {path.name} of {name} is of another image; passed over")
        elif not _related(scan, theirs.get("space", "")):
            warnings.append(
                f"{_who(scan)}: {path.name} of {name} lies in space {theirs['space']}, neither in "
                f"that of {scan.path.name} nor of a T1w image; passed over"
            )
        else:
            mine.append((name, path))
    if len(mine) > 1:
        others = ", ".join(f"{path.name} of {name}" for name, path in mine[1:])
        used = f"{mine[0][1].name} of {mine[0][0]}"
        warnings.append(f"{_who(scan)}: {used} is used as lesion mask, {others} passed over")
    chosen = mine[0][1] if mine else None
    return chosen, warnings + ([] if chosen is None else _borrowed(scan, chosen))


def _borrowed(scan: Scan, mask: Path) -> list[str]:
    """A sentence where the T1w image that a mask lies in is that of another session."""
    if scan.t1w is None or scan.t1w.session == scan.session or not in_t1w(mask):
        return []
    return [
        f"{_who(scan)}: {mask.name} is read in the space of {scan.t1w.path.name}, as its own "
        "session has no T1w image"
    ]


def _related(scan: Scan, space: str) -> bool:
    if space in OF_IMAGE or space == entities(scan.path).get("space"):
        return True
    return space in OF_T1W and scan.t1w is not None


def in_t1w(mask: Path) -> bool:
    """Whether a mask says that it lies in the space of the T1w image."""
    return entities(mask).get("space", "") in OF_T1W


def read_lesions(path: Path) -> tuple[nib.Nifti1Image, list[str]]:
    """Read a lesion mask, RAS+ axes, uint8 of 0 and 1.

    Returns
    -------
    image : Nifti1Image
    notes : list of str
        Sentences about what was not as it should be.

    Raises
    ------
    models.errors.InputError
        Not readable, not 3D, without orientation or with two that disagree, or with values that no
        mask has.
    """
    try:
        stored = nib.load(path)
        data = np.asarray(stored.dataobj, np.float32)  # type: ignore[attr-defined]
    except Exception as error:  # nibabel and zlib raise many kinds for a bad file
        raise InputError(f"{path}: not a readable lesion mask ({error}); fetch it again") from error
    if data.ndim < 3 or int(np.prod(data.shape[3:])) != 1:
        raise InputError(
            f"{path}: has {'x'.join(map(str, data.shape))} voxels; a lesion mask is one 3D volume"
        )
    check_placement(path, stored, "write it again with the header of its image")
    values, notes = _binary(path, data.reshape(data.shape[:3]))
    image = nib.Nifti1Image(values.astype(np.uint8), stored.affine)  # type: ignore[attr-defined]
    if is_sheared(image.affine):
        image = _straight(image)
        notes.append(f"{path.name}: its axes are not at right angles: moved to a straight grid")
    return nib.as_closest_canonical(image), notes


def _straight(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The mask on axes at right angles."""
    from nibabel.processing import resample_to_output

    found = resample_to_output(image, min(image.header.get_zooms()[:3]), order=0)
    return nib.Nifti1Image(np.asarray(found.dataobj, np.uint8), found.affine)


def _binary(path: Path, data: np.ndarray) -> tuple[np.ndarray, list[str]]:
    notes = []
    bad = ~np.isfinite(data)
    if bad.any():
        notes.append(f"{path.name}: {int(bad.sum())} NaN or infinite voxels count as no lesion")
        data = np.where(bad, 0, data)
    rounded = np.round(data)
    whole = np.allclose(data, rounded, rtol=0, atol=ROUNDING)
    if data.min() < -ROUNDING or (not whole and data.max() > 1 + ROUNDING):
        raise InputError(
            f"{path}: holds values from {data.min():g} to {data.max():g}, so it is no lesion mask; "
            "a mask is 0 and 1, a segmentation whole numbers, a probability between 0 and 1"
        )
    lesions = rounded > 0 if whole else data >= CUT
    if not whole:
        notes.append(f"{path.name}: holds values between 0 and 1; cut at {CUT:g}")
    elif rounded.max() > 1:
        count = len(np.unique(rounded[lesions]))
        notes.append(f"{path.name}: is not binary; every label above 0 ({count}) counts as lesion")
    if not lesions.any():
        notes.append(f"{path.name}: is empty; this person counts as without lesions")
    return lesions, notes
