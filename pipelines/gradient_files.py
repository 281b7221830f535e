"""Files of gradient tables: .bval and .bvec beside a DWI, and the app's own between nodes."""

import json
from pathlib import Path

import numpy as np

from models.errors import InputError
from models.gradient_table import GradientTable, along_image, checked


def table_file(path: Path, extension: str) -> Path | None:
    """The nearest .bval or .bvec that a DWI inherits, by the rule of BIDS; None without one."""
    own = set(path.name.split(".")[0].split("_"))
    for folder in path.parents:
        said = [
            one
            for one in folder.glob(f"*dwi{extension}")
            if set(one.name.removesuffix(extension).split("_")) <= own
        ]
        if said:
            return max(said, key=lambda one: (len(one.name.split("_")), one.name))
        if (folder / "dataset_description.json").exists():
            break
    return None


def read_gradients(path: Path, volumes: int, affine: np.ndarray) -> tuple[GradientTable, list[str]]:
    """The checked table of a raw DWI, along world axes, and sentences about what was mended.

    Parameters
    ----------
    path : Path
        The image; its tables are looked for as BIDS says.
    volumes : int
        Of the image.
    affine : (4, 4) array
        Of the image as stored.

    Raises
    ------
    models.errors.InputError
        A table is missing, no table, or does not fit the image.
    """
    numbers = {ending: _numbers(path, ending) for ending in (".bval", ".bvec")}
    return checked(
        numbers[".bval"], numbers[".bvec"], volumes=volumes, affine=affine, source=str(path)
    )


def _numbers(path: Path, ending: str) -> np.ndarray:
    file = table_file(path, ending)
    if file is None:
        raise InputError(
            f"{path}: has no {ending} file beside it, so nobody knows how it was weighted; convert "
            "the series again from the DICOM files"
        )
    try:
        rows = [line.split() for line in file.read_text().splitlines() if line.split()]
        return np.array([[float(one.strip(",")) for one in row] for row in rows])
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: is no table of numbers with rows of one length ({error}); export it again"
        ) from error


def save_table(table: GradientTable, file: Path) -> Path:
    """Write a table for the next node."""
    columns = {"b_values": table.b_values.tolist(), "directions": table.directions.tolist()}
    file.write_text(json.dumps(columns))
    return file


def load_table(file: str | Path) -> GradientTable:
    """Read what `save_table` wrote."""
    columns = json.loads(Path(file).read_text())
    return GradientTable(np.array(columns["b_values"]), np.array(columns["directions"]))


def write_fsl(table: GradientTable, affine: np.ndarray, b_values: Path, b_vectors: Path) -> None:
    """Write .bval and .bvec of an image with this affine, as FSL and BIDS want them."""
    b_values.write_text(" ".join(f"{one:g}" for one in table.b_values) + "\n")
    rows = along_image(table.directions, affine).T
    b_vectors.write_text("\n".join(" ".join(f"{one:.6f}" for one in row) for row in rows) + "\n")
