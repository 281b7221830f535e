"""Diffusion data as it should not be, through the command line: who fails, why, and who does not.

One run over people each of whom has something else wrong, and one in whom several things can be
mended.
"""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import describe, save_scan

from models.diffusion_phantom import directions
from pipelines.derivatives import read_sidecar, read_table

CONFIG = """\
[preprocessing]
registration = "linear"
resolution_mm = 6.0
[preprocessing.dwi]
gibbs = "none"
coregistration = "rigid"
"""
VALUES, VECTORS = np.array([0.0, *[1000.0] * 6]), np.vstack([np.zeros(3), directions(6)])


def table(folder, who, values=VALUES, vectors=VECTORS.T):
    """Write .bval and .bvec as they are given; None writes no file."""
    stem = folder / f"sub-{who}/dwi/sub-{who}_dwi"
    if values is not None:
        stem.with_suffix(".bval").write_text(" ".join(f"{one:g}" for one in values) + "\n")
    if vectors is not None:
        rows = "\n".join(" ".join(f"{one:.6f}" for one in row) for row in np.atleast_2d(vectors))
        stem.with_suffix(".bvec").write_text(rows + "\n")


def series(folder, who, image, volumes=7):
    """A series whose weighted volumes are darker by another share each."""
    data = np.asarray(image.dataobj, np.float32)
    inverse = np.where(data > 0, 250 - data, 0)
    shares = [1, *np.linspace(0.4, 0.55, volumes - 1)] if volumes > 1 else [1]
    stack = inverse[..., None] * shares if volumes > 1 else inverse
    noise = np.random.default_rng(0).normal(0, 2, stack.shape)
    path = folder / f"sub-{who}/dwi/sub-{who}_dwi.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.abs(stack + noise).astype(np.float32), image.affine), path)
    path.with_name(f"sub-{who}_dwi.json").write_text("{}")
    return path


# Who: what is wrong, and what the sentence about it says.
REFUSED = {
    "nobval": ({"values": None}, r"has no \.bval file beside it"),
    "nobvec": ({"vectors": None}, r"has no \.bvec file beside it"),
    "short": ({"values": VALUES[:-1]}, r"has 7 volumes, but its \.bval file has 6"),
    "long": ({"vectors": np.vstack([VECTORS, VECTORS[1:2]]).T}, r"but its \.bvec file has 8"),
    "square": ({"vectors": VECTORS[:, :2].T}, r"holds 2x7 numbers"),
    "words": ({"values": [*VALUES[:-1], np.nan]}, "no numbers"),
    "nob0": ({"values": VALUES + 1000}, "no volume without diffusion weighting"),
    "one": ({"vectors": VECTORS[[0, *[1] * 6]].T}, "has 1 different gradient directions"),
    "five": ({"vectors": VECTORS[[0, 1, 2, 3, 4, 5, 5]].T}, "has 5 different gradient"),
    "plane": (
        {"vectors": np.array([[0, 0, 0], *[[np.cos(a), np.sin(a), 0] for a in range(6)]]).T},
        "do not span space",
    ),
    "zero": ({"vectors": VECTORS[[0, 0, 2, 3, 4, 5, 6]].T}, "volume 1 has b = 1000 but no direc"),
    "json": ({}, r"sub-json_dwi\.json: cannot be read as JSON"),
    "gone": ({}, r"sub-gone_dwi\.bval: is a link to a file that is not here"),
    "flat": ({}, r"a series of volumes \(4D\) is needed"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, brain, brainwhy):
    """Everybody in one call."""
    folder = tmp_path_factory.mktemp("bad")
    raw, image = folder / "raw", brain(1, "LAS")
    for who, (given, _) in REFUSED.items():
        series(raw, who, image, volumes=1 if who == "flat" else 7)
        table(raw, who, **given)
    (raw / "sub-json/dwi/sub-json_dwi.json").write_text('{"PhaseEncodingDirection":')
    gone = raw / "sub-gone/dwi/sub-gone_dwi.bval"
    gone.unlink()
    gone.symlink_to(folder / "not-fetched")
    # Mended: vectors in columns and half as long, a b0 of 5.
    series(raw, "mended", image)
    table(raw, "mended", [5, *VALUES[1:]], 0.5 * VECTORS)
    save_scan(raw, "onlyT1w", image)
    describe(raw, {who: {"age": 60} for who in (*REFUSED, "mended", "onlyT1w")})
    (folder / "small.toml").write_text(CONFIG)
    done = brainwhy(
        raw, folder / "out", "participant", "--recipe", "dwi", "--config-file",
        folder / "small.toml", "--nprocs", 1,
    )  # fmt: skip
    return folder / "out", done


@pytest.mark.parametrize("who", REFUSED)
def test_who_cannot_be_fitted_fails_alone_and_learns_why(run, who):
    out, done = run
    assert done.code == 1
    log = json.loads((out / f"logs/participant-{who}.json").read_text())
    (failure,) = [json.dumps(one) for one in log["Failures"]]
    assert f"sub-{who}_dwi" in failure
    assert re.search(REFUSED[who][1].replace('"', r'\\"'), failure), failure
    assert not list(out.glob(f"sub-{who}/dwi/*"))


def test_what_can_be_mended_is_done_and_said(run):
    out, _ = run
    (tensor,) = out.glob("sub-mended/dwi/sub-mended_model-tensor_param-diffusivity_dwimap.nii.gz")
    warnings = " ".join(read_sidecar(tensor)["Warnings"])
    assert "one volume per row: it was transposed" in warnings
    assert "50% off unit length" in warnings
    (registered,) = out.glob("sub-mended/dwi/*_space-MNI*_param-diffusivity_*_dwimap.nii.gz")
    assert any("no T1w image" in one for one in read_sidecar(registered)["Warnings"])
    (qc,) = out.glob("sub-mended/dwi/*_qc.tsv")
    assert read_table(qc).iloc[0]["volumes_fitted"] == 7
    log = json.loads((out / "logs/participant-mended.json").read_text())
    assert log["Failures"] == []


def test_a_t1w_image_without_diffusion_is_passed_over(run):
    out, done = run
    assert "sub-onlyT1w: has no dwi image; skipped" in done.said
    assert not (out / "sub-onlyT1w").exists() or not list((out / "sub-onlyT1w").glob("*/*.nii.gz"))


def test_diffusion_without_a_t1w_image_is_said(run):
    _, done = run
    assert "sub-mended: has no T1w image to go with sub-mended_dwi.nii.gz" in done.said


def test_nothing_but_t1w_images_is_no_diffusion_dataset(tmp_path, brain, brainwhy):
    save_scan(tmp_path / "raw", "01", brain(1))
    describe(tmp_path / "raw", {"01": {"age": 60}})
    done = brainwhy(tmp_path / "raw", tmp_path / "out", "participant", "--recipe", "dwi")
    assert done.code == 64
    assert "no dwi image of sub-01" in done.said
    assert not Path(tmp_path / "out/sub-01").exists()
