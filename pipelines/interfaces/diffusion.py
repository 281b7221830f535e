"""Interfaces of diffusion images within their own space: from the raw series to the tensor."""

import shutil
import warnings
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
from threadpoolctl import threadpool_limits

from models.diffusion import (
    damaged_slices,
    fit_tensor,
    outlying_volumes,
    residual_percent,
    signal_to_noise,
)
from models.errors import InputError
from models.gradient_table import for_tensor, is_enough
from pipelines.derivatives import file_hash
from pipelines.gradient_files import load_table, read_gradients, save_table, write_fsl
from pipelines.images import load_series, read_nifti, write_nifti
from pipelines.inputs import metadata_of
from pipelines.interfaces.ants import N4_FEWEST_VOXELS, N4_SHRINK, deterministic_ants
from pipelines.phase_encoding import PhaseEncoding
from pipelines.programs import run_program
from pipelines.tensors import describe_fit, write_tensor

MEDIAN_RADIUS, DILATION = 4, 1  # voxels, of median Otsu; found best on the b0
LARGEST_HOLE_ML = 8.0


# --- conform -------------------------------------------------------------------------------------


class ConformDwiInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="raw series")


class ConformDwiOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="float32 series with RAS+ axes")
    table = File(exists=True, desc="gradient table along world axes")
    volumes = traits.List(traits.Int)
    axis = traits.Int(desc="phase-encoding axis of out_file; -1 where nothing tells it")
    slice_axis = traits.Int(desc="axis of out_file across slices")
    meta = traits.Dict


class ConformDwi(SimpleInterface):
    """Check a series and its gradient table, give it RAS+ axes; voxels are only reordered."""

    input_spec = ConformDwiInputSpec
    output_spec = ConformDwiOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        path, cwd = Path(self.inputs.in_file), Path(runtime.cwd)
        image, raw_affine, notes = load_series(path)
        table, mended = read_gradients(path, image.shape[3], raw_affine)
        _, shells = for_tensor(table, source=str(path))
        metadata = metadata_of(path)
        encoding = PhaseEncoding.of(path, metadata, raw_affine)
        turned = nib.io_orientation(raw_affine)[:, 0].astype(int)
        write_nifti(cwd / "conformed.nii", np.asarray(image.dataobj), image.affine)
        self._results |= {
            "out_file": str(cwd / "conformed.nii"),
            "table": str(save_table(table, cwd / "table.json")),
            "volumes": list(range(image.shape[3])),
            "axis": -1 if encoding.axis is None else int(turned[encoding.axis]),
            "slice_axis": int(turned[_slices(metadata)]),
            "meta": {
                "Warnings": [*notes, *mended, *shells, *encoding.notes()],
                "RawAxes": "".join(nib.aff2axcodes(raw_affine)),
                "RawSHA256": file_hash(path),
                "Shells": [round(one, 1) for one in table.shells],
                "VolumesPerShell": [int(table.on_shell(one).sum()) for one in table.shells],
                "B0Volumes": int(table.is_b0.sum()),
                "PhaseEncodingFrom": encoding.source or "unknown",
                "PartialFourier": metadata.get("PartialFourier"),
            },
        }
        return runtime


def _slices(metadata: dict[str, Any]) -> int:
    """Voxel axis of the file across slices; the third one unless the sidecar says another."""
    said = str(metadata.get("SliceEncodingDirection") or "k")[:1]
    return {"i": 0, "j": 1}.get(said, 2)


# --- denoise -------------------------------------------------------------------------------------


class DenoiseDwiInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True)


class DenoiseDwiOutputSpec(TraitedSpec):
    out_file = File(exists=True)
    noise_sd = traits.Float(desc="median over the head")
    meta = traits.Dict


class DenoiseDwi(SimpleInterface):
    """Marchenko-Pastur principal components (Veraart et al. 2016), by dipy.

    An empty volume would make the least component exactly 0, and so all noise signal: it is kept
    out, and left as it is for the search for damaged slices to find.
    """

    input_spec = DenoiseDwiInputSpec
    output_spec = DenoiseDwiOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from dipy.denoise.localpca import mppca

        from pipelines.denoising import head_mask

        image = read_nifti(self.inputs.in_file)
        data = np.nan_to_num(np.asarray(image.dataobj, np.float32), posinf=0, neginf=0)
        there = np.ptp(data, axis=(0, 1, 2)) > 0
        radius = _patch_radius(there.sum())
        head = head_mask(data[..., there].mean(-1))  # most of the time would be spent on air
        with threadpool_limits(1), warnings.catch_warnings():  # more threads are 20 times slower
            warnings.simplefilter("ignore", RuntimeWarning)  # patches of air have no components
            denoised = np.zeros_like(data)
            denoised[..., there], noise = mppca(
                data[..., there],
                mask=head,
                patch_radius=radius,
                return_sigma=True,
                suppress_warning=True,
            )
        usable = head[..., None] & np.isfinite(denoised) & (denoised >= 0)
        denoised = np.where(usable, denoised, np.clip(data, 0, None)).astype(np.float32)
        sd = float(np.median(noise[head & np.isfinite(noise)]))
        out_file = Path(runtime.cwd) / "denoised.nii"
        write_nifti(out_file, denoised, image.affine)
        self._results |= {
            "out_file": str(out_file),
            "noise_sd": sd,
            "meta": {
                "Denoising": f"MP-PCA (dipy) in the head, patches of {2 * radius + 1} voxels along "
                "each axis",
                "NoiseSD": round(sd, 4),
                "Warnings": [
                    f"volume {one} (the first is 0) is empty" for one in np.flatnonzero(~there)
                ],
            },
        }
        return runtime


def _patch_radius(volumes: int) -> int:
    """The least radius whose patch has more voxels than there are volumes, at least 2."""
    radius = 2
    while (2 * radius + 1) ** 3 <= volumes:
        radius += 1
    return radius


# --- Gibbs rings ---------------------------------------------------------------------------------


class UnringInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True)
    slice_axis = traits.Int(2, usedefault=True)
    method = traits.Enum("auto", "mrtrix3", "dipy", usedefault=True)
    partial_fourier = traits.Dict(desc="meta of the conformed series")


class UnringOutputSpec(TraitedSpec):
    out_file = File(exists=True)
    meta = traits.Dict


class Unring(SimpleInterface):
    """Remove Gibbs rings by sub-voxel shifts (Kellner et al. 2016): MRtrix3 if there, else dipy."""

    input_spec = UnringInputSpec
    output_spec = UnringOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        method = chosen_unringing(self.inputs.method)
        out_file = Path(runtime.cwd) / "unrung.nii"
        UNRINGING[method](Path(self.inputs.in_file), out_file, self.inputs.slice_axis)
        self._results["out_file"] = str(out_file)
        self._results["meta"] = {
            "GibbsCorrection": f"sub-voxel shifts, {method}",
            "Warnings": self._doubts(),
        }
        return runtime

    def _doubts(self) -> list[str]:
        given = self.inputs.partial_fourier
        share = given.get("PartialFourier") if isdefined(given) else None
        if isinstance(share, int | float) and share < 1:
            return [
                f"the scan was made with partial Fourier {share:g}: Gibbs rings along its "
                "phase-encoding axis are wider than the correction expects, and some stay"
            ]
        return []


def chosen_unringing(wanted: str) -> str:
    """Which program removes Gibbs rings here.

    Raises
    ------
    models.errors.InputError
        MRtrix3 was asked for and is not on PATH.
    """
    there = shutil.which("mrdegibbs") is not None
    if wanted == "mrtrix3" and not there:
        raise InputError(
            "[preprocessing.dwi] gibbs = 'mrtrix3': mrdegibbs is not on PATH; install MRtrix3, or "
            "choose 'dipy' (never both in one study: they differ)"
        )
    return wanted if wanted != "auto" else ("mrtrix3" if there else "dipy")


def _unring_mrtrix3(in_file: Path, out_file: Path, slice_axis: int) -> None:
    planes = ",".join(str(axis) for axis in range(3) if axis != slice_axis)
    options = ["-axes", planes, "-nthreads", "1", "-quiet", "-force"]
    ended = run_program(["mrdegibbs", in_file, out_file, *options])
    if ended.returncode:
        raise RuntimeError(f"mrdegibbs {in_file}: {ended.stderr.strip()}")
    image = read_nifti(out_file)
    data, affine = np.asarray(image.dataobj, np.float32), read_nifti(in_file).affine
    write_nifti(out_file, np.nan_to_num(data).clip(0), affine)


def _unring_dipy(in_file: Path, out_file: Path, slice_axis: int) -> None:
    from dipy.denoise.gibbs import gibbs_removal

    image = read_nifti(in_file)
    data = np.array(image.dataobj, np.float32)
    with threadpool_limits(1):
        # More than one process imports the main module again, and may never end.
        clean = gibbs_removal(data, slice_axis=slice_axis, inplace=False, num_processes=1)
    write_nifti(out_file, np.nan_to_num(clean).clip(0), image.affine)


UNRINGING = {"mrtrix3": _unring_mrtrix3, "dipy": _unring_dipy}


# --- brain and bias field ------------------------------------------------------------------------


class B0BrainInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="aligned series")
    table = File(exists=True, mandatory=True)
    seed = traits.Int(1, usedefault=True)


class B0BrainOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="series without bias field")
    b0 = File(exists=True, desc="mean b0 without bias field, skull on")
    out_mask = File(exists=True)
    meta = traits.Dict


class B0Brain(SimpleInterface):
    """Brain mask of the mean b0, and its bias field (N4) taken out of all volumes alike."""

    input_spec = B0BrainInputSpec
    output_spec = B0BrainOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        cwd, ants = Path(runtime.cwd), deterministic_ants(self.inputs.seed)
        image, table = read_nifti(self.inputs.in_file), load_table(self.inputs.table)
        data = np.asarray(image.dataobj, np.float32)
        b0 = data[..., table.is_b0].mean(-1)
        mask = b0_mask(b0, image.affine)
        if not mask.any():
            raise InputError(f"{self.inputs.in_file}: no brain was found in the b0; look at it")
        write_nifti(cwd / "mask.nii.gz", mask, image.affine)
        field = _bias_field(ants, b0, mask, np.array(image.header.get_zooms()[:3]))
        write_nifti(cwd / "b0.nii.gz", b0 / field, image.affine)
        write_nifti(cwd / "unbiased.nii.gz", data / field[..., None], image.affine)
        self._results |= {
            "out_file": str(cwd / "unbiased.nii.gz"),
            "b0": str(cwd / "b0.nii.gz"),
            "out_mask": str(cwd / "mask.nii.gz"),
            "meta": {
                "BrainMaskMethod": "median Otsu of the mean b0 (dipy)",
                "BiasField": "N4 of the mean b0, divided out of every volume",
                "SkullStripped": False,
            },
        }
        return runtime


def b0_mask(b0: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Brain of a b0 image, (x, y, z) bool: its largest bright body, without holes."""
    from dipy.segment.mask import median_otsu

    _, found = median_otsu(b0, median_radius=MEDIAN_RADIUS, numpass=1, dilate=DILATION)
    labels, count = ndimage.label(found)
    if count > 1:
        found = labels == np.bincount(labels.flat)[1:].argmax() + 1
    return ndimage.binary_fill_holes(found)


def _bias_field(ants: Any, b0: np.ndarray, mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The smooth field of a b0, 1 on average over the brain."""
    image, inside = (
        ants.from_numpy(one.astype(np.float32), spacing=tuple(map(float, spacing)))
        for one in (b0, mask)
    )
    shrink = max(1, min(N4_SHRINK, min(b0.shape) // N4_FEWEST_VOXELS))
    found = ants.n4_bias_field_correction(
        image, mask=inside, shrink_factor=shrink, return_bias_field=True
    ).numpy()
    return np.clip(found / max(float(found[mask].mean()), 1e-6), 0.1, 10).astype(np.float32)


# --- tensor --------------------------------------------------------------------------------------


class FitTensorInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="aligned series")
    table = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    source = traits.Str(mandatory=True, nohash=True, desc="the raw image, for sentences")
    slice_axis = traits.Int(2, usedefault=True)
    method = traits.Str("WLS", usedefault=True, desc="one of models.diffusion.FITS")
    outliers = traits.Enum("drop", "keep", usedefault=True)
    noise_sd = traits.Float(mandatory=True)


class FitTensorOutputSpec(TraitedSpec):
    tensor = File(exists=True, desc="six components along world axes, mm2/s")
    md = File(exists=True)
    fa = File(exists=True)
    b_values = File(exists=True, desc=".bval of in_file")
    b_vectors = File(exists=True, desc=".bvec of in_file, turned with the head")
    outliers = traits.List(traits.Int, desc="volumes with damaged slices")
    numbers = traits.Dict(desc="quality numbers")
    meta = traits.Dict


class FitTensor(SimpleInterface):
    """Find damaged volumes, fit the tensor to the others, write it with MD and FA."""

    input_spec = FitTensorInputSpec
    output_spec = FitTensorOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        given, cwd = self.inputs, Path(runtime.cwd)
        image, table = read_nifti(given.in_file), load_table(given.table)
        mask = np.asarray(read_nifti(given.mask).dataobj) > 0
        used, _ = for_tensor(table, source=given.source)
        data = np.asarray(image.dataobj, np.float32)
        rows = np.flatnonzero(used)
        damaged = damaged_slices(data[..., rows], table[rows], mask, given.slice_axis)
        outlying = rows[outlying_volumes(damaged, mask, given.slice_axis)]
        kept, said = self._kept(rows, outlying, table)
        method = {"method": given.method, "noise_sd": given.noise_sd}
        with threadpool_limits(1):
            tensors = fit_tensor(data[..., kept], table[kept], mask, **method)
        paths, raised = write_tensor(tensors, mask, image.affine, cwd, template=False)
        write_fsl(table, image.affine, cwd / "dwi.bval", cwd / "dwi.bvec")
        snr = signal_to_noise(data[..., kept], table[kept], mask, max(given.noise_sd, 1e-6))
        residual = residual_percent(data[..., kept], table[kept], mask, tensors)
        self._results |= {
            "tensor": paths["diffusivity"],
            "md": paths["md"],
            "fa": paths["fa"],
            "b_values": str(cwd / "dwi.bval"),
            "b_vectors": str(cwd / "dwi.bvec"),
            "outliers": [int(one) for one in outlying],
            "numbers": {
                "volumes": len(table.b_values),
                "volumes_fitted": len(kept),
                "outlier_volumes": len(outlying),
                "damaged_slices": int(damaged.sum()),
                "snr_b0": round(snr[0], 2),
                "snr_weighted": round(snr[1], 2),
                "residual_percent": round(residual, 3),
                "negative_percent": round(100 * raised, 3),
            },
            "meta": describe_fit(given.method, raised)
            | {"Warnings": said, "OutlierVolumes": [int(one) for one in outlying]},
        }
        return runtime

    def _kept(
        self, rows: np.ndarray, outlying: np.ndarray, table: Any
    ) -> tuple[np.ndarray, list[str]]:
        """The volumes that are fitted, and what is said of the others."""
        if not len(outlying):
            return rows, []
        names = ", ".join(str(one) for one in outlying)
        kept = np.setdiff1d(rows, outlying)
        if self.inputs.outliers == "keep":
            return rows, [f"volumes {names} (from 0) have damaged slices; they were kept"]
        if not is_enough(table[kept]):
            return rows, [
                f"volumes {names} (from 0) have damaged slices; without them too few directions "
                "remain, so they were kept"
            ]
        return kept, [f"volumes {names} (from 0) have damaged slices and were not fitted"]
