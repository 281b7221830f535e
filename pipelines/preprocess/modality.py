"""What the rest of the app asks of the preprocessing of a modality."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nipype.pipeline import engine as pe

from models.duplicates import ALIKE
from pipelines.derivatives import has_sidecar, read_sidecar, sidecar_path
from pipelines.inputs import Scan

T1W_WF = "t1w_wf"  # within the workflow of a scan: the T1w image that goes with it


def _nothing(path: Path) -> str:
    return ""


@dataclass(frozen=True)
class Modality:
    """One kind of image, from the raw scan to what a network sees.

    Parameters
    ----------
    suffix : str
        BIDS suffix of the raw image, such as ``T1w``.
    options : callable
        (table of ``[preprocessing]``, seed) to the frozen dataclass that the others take.
    paths : callable
        (scan, options) to the derivatives of a scan: name to path below the output folder. Among
        them ``registered``, the image that networks are given, and ``quality``, the table of
        quality numbers whose sidecar holds the ``Fingerprint``; it is written last.
    making : callable
        (scan, options) to the hash of everything that decides the derivatives.
    workflow : callable
        Keyword-only ``name, scan, output_dir, template, options, device`` to the workflow of one
        scan, which has an ``outputnode`` with ``saved``.
    volume : callable
        (path of ``registered``, grid, intensity, blanked voxels) to the network's input,
        (channels, x, y, z) float32 on the grid.
    needs_t1w : bool
        Whether scans come with the person's T1w image, where there is one. They also do where
        the recipe's registration is ``t1w``.
    beside : callable
        (path of a raw image) to why what lies beside it and plays a part, such as its sidecar,
        cannot be read, as a sentence; "" when it can, or nothing does.
    lesions : callable, optional
        (scan, options) to the path of the lesions in template space, below the output folder, for
        modalities whose scans come with the mask that the dataset has of them.
    channels : int
        Of ``volume``.
    parameters : tuple of str
        What the channels are called in the names of their maps (``param-``), where there are
        several.
    names : str
        Pattern of the file names of its scans, where the suffix does not tell them.
    rank : callable
        Of several images of a session, that of the lowest value is the scan.
    others_are : str
        What is said of the others.
    registrations : tuple of str
        Those of `pipelines.preprocess.REGISTRATIONS` that there are.
    negated : tuple of int
        Channels whose sign turns when left and right are exchanged.
    maps : mapping of str to callable
        Maps (x, y, z) that are made of the network's input (channels, x, y, z) for voxelwise
        tests, by name; images of one channel are tested as they are.
    to_be_mirrored : callable, optional
        (path of ``registered``) to whether left and right are exchanged in what a network sees
        where the recipe says ``mirror``, so that the affected side is left in everybody. None
        where a modality does not know of such a side.
    measures : callable, optional
        (path of ``registered``) to numbers of the image that uptake elsewhere is held against;
        the first one is the leading one.
    ways : callable, optional
        (output folder, options) to the transform, points of the template to the person's, of each
        image on disk that was not registered, by participant and session. None where there is
        none of a modality.
    alike : float
        Correlation of what sets two images apart from the others, from which they are told as
        nearly equal (`models.duplicates`).
    """

    suffix: str
    options: Callable[[Mapping[str, Any], int], Any]
    paths: Callable[[Scan, Any], dict[str, str]]
    making: Callable[[Scan, Any], str]
    workflow: Callable[..., pe.Workflow]
    volume: Callable[..., np.ndarray]
    needs_t1w: bool = False
    channels: int = 1
    parameters: tuple[str, ...] = ()
    names: str = "*"
    rank: Callable[[Path], Any] = str
    others_are: str = "passed over"
    beside: Callable[[Path], str] = _nothing
    lesions: Callable[[Scan, Any], str] | None = None
    registrations: tuple[str, ...] = ("nonlinear", "linear", "none")
    negated: tuple[int, ...] = ()
    maps: Mapping[str, Callable[[np.ndarray], np.ndarray]] = field(default_factory=dict)
    to_be_mirrored: Callable[[str | Path], bool] | None = None
    measures: Callable[[str | Path], dict[str, float]] | None = None
    ways: Callable[[Path, Any], dict[tuple[str, str], Path]] | None = None
    alike: float = ALIKE

    def is_done(self, output_dir: Path, scan: Scan, options: Any) -> bool:
        """Whether the derivatives of this very scan with these options are all there."""
        paths = self.paths(scan, options)
        stored = read_sidecar(output_dir / paths["quality"])
        not_made = stored.get("NotMade", [])
        files = [output_dir / path for name, path in paths.items() if name not in not_made]
        files += [sidecar_path(file) for file in files if has_sidecar(file)]
        if not all(file.exists() for file in files):
            return False
        return stored.get("Fingerprint") == self.making(scan, options)

    def stored(
        self, output_dir: Path, options: Any, name: str = "registered"
    ) -> dict[tuple[str, str], Path]:
        """One derivative of everybody on disk, by participant and session ("" without)."""
        found = {}
        for session in ("", "*"):
            anyone = Scan("*", session, Path("*"))
            for path in sorted(output_dir.glob(self.paths(anyone, options)[name])):
                parts = dict(part.split("-", 1) for part in path.name.split("_") if "-" in part)
                found[parts["sub"], parts.get("ses", "")] = path
        return found
