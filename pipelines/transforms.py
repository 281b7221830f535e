"""Files of ITK's transforms (HDF5), joined."""

from collections.abc import Sequence
from pathlib import Path

import h5py

from models.errors import InputError

GROUP = "TransformGroup"
TEXT = h5py.string_dtype("ascii")  # the kind of text that ITK can read


def chained(transforms: Sequence[str | Path], target: Path) -> Path:
    """Write one composite transform: points go through the first of ``transforms`` first.

    Parameters
    ----------
    transforms : sequence of path
        Transforms of ITK in HDF5, composite or not.
    target : Path
        ``.h5``.
    """
    with h5py.File(target, "w") as file:
        group = file.create_group(GROUP)
        # ITK's composite applies what stands last first.
        parts = [part for path in reversed(transforms) for part in _parts(Path(path))]
        precision = {kind.split("_", 1)[1] for _, _, kind in parts}
        if len(precision) != 1:
            raise InputError(f"{target.name}: transforms of unlike precision cannot be joined")
        kind = f"CompositeTransform_{precision.pop()}"
        group.create_group("0").create_dataset("TransformType", data=[kind], dtype=TEXT)
        for number, (path, name, _) in enumerate(parts, start=1):
            with h5py.File(path) as source:
                source.copy(f"{GROUP}/{name}", group, name=str(number))
        with h5py.File(parts[0][0]) as source:
            for name in set(source) - {GROUP}:
                source.copy(name, file)
    return target


def _parts(path: Path) -> list[tuple[Path, str, str]]:
    """File, number and type of each transform that is no composite itself, in their order."""
    with h5py.File(path) as file:
        kinds = {name: bytes(one["TransformType"][0]).decode() for name, one in file[GROUP].items()}
    ordered = sorted(kinds, key=int)
    return [(path, name, kinds[name]) for name in ordered if "Composite" not in kinds[name]]
