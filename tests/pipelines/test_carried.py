"""Maps of images that were not registered, taken to the template: places, sides, means, who."""

import json
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from models.errors import InputError
from models.grids import full_grid
from models.volumes import write_cache
from pipelines.derivatives import write_table
from pipelines.images import write_nifti
from pipelines.inputs import Scan
from pipelines.interfaces.carried import BRAIN, CarryMaps, GatherMaps
from pipelines.interfaces.summaries import STACK
from pipelines.preprocess.dwi import MODALITY, DwiOptions, dwi_paths, ways_to_template
from pipelines.preprocess.t1w import MODALITY as T1W

ants = pytest.importorskip("ants")

GRID = full_grid(6.0)
# A spot on the left of the template, in mm; each person's head lies elsewhere in the scanner.
SPOT, HEAD = np.array([-42.0, 24.0, 12.0]), 54.0
SHIFTS = {"01": np.array([12.0, -6.0, 18.0]), "02": np.array([-24.0, 30.0, 6.0])}
NAMES = ["diktiometryfa"]


def run(interface, folder):
    folder.mkdir(parents=True, exist_ok=True)
    interface._run_interface(SimpleNamespace(cwd=str(folder)))
    return interface._results


def person(shift, origin):
    """Brain and spot (x, y, z) of somebody on the grid's voxels, whose first is at ``origin``."""
    points = GRID.voxel_mm * np.moveaxis(np.indices(GRID.shape), 0, -1) + origin
    away = points - shift
    brain = np.linalg.norm(away, axis=-1) < HEAD
    return brain, np.exp(-((np.linalg.norm(away - SPOT, axis=-1) / 12) ** 2)) * brain


@pytest.fixture(scope="module", params=[False, True])
def study(request, tmp_path_factory):
    """Cache, stack and predictions of two people, and one who has no transform; mirrored or not."""
    mirrored, tmp_path = request.param, tmp_path_factory.mktemp("study")
    volumes, spots, images, transforms = [], [], [], []
    for who, shift in SHIFTS.items():
        origin = np.array(GRID.origin_mm) + shift // 6 * 6 + 3  # the scanner's, off by half a voxel
        brain, spot = person(shift, origin)
        tensor = np.zeros((6, *GRID.shape), np.float32)
        tensor[[0, 3, 5]] = brain * (0.25 + 0.1 * spot)
        turn = mirrored and who == "02"
        volumes.append(tensor[:, ::-1] if turn else tensor)
        spots.append(spot[::-1] if turn else spot)
        affine = np.diag([6.0, 6, 6, 1])
        affine[:3, 3] = origin
        path = tmp_path / f"out/sub-{who}/dwi/sub-{who}_space-T1w_dwimap.nii.gz"
        path.parent.mkdir(parents=True)
        write_nifti(path, np.moveaxis(tensor, 0, -1), affine)
        images.append(str(path))
        made = ants.create_ants_transform(
            transform_type="AffineTransform", matrix=np.eye(3), translation=shift * [-1, -1, 1]
        )
        transforms.append(str(tmp_path / f"{who}.mat"))
        ants.write_transform(made, transforms[-1])
    keys = [("01", ""), ("02", ""), ("03", "")]
    turned = [False, True, False] if mirrored else ()
    cache = write_cache(tmp_path / "cache", keys, [*volumes, volumes[0]], GRID, 6, turned)
    np.save(tmp_path / STACK, np.array([*spots, spots[0]], np.float32))
    (tmp_path / "facts.json").write_text("{}")
    table = pd.DataFrame(
        {"participant_id": ["sub-01", "sub-02", "sub-03"], "session_id": [None] * 3,
         "label": ["PD", "HC", "PD"], "fold": [1, 2, 1]}
    )  # fmt: skip
    write_table(tmp_path / "predictions.tsv", table)
    files = [
        run(
            CarryMaps(
                participant=who, image=image, transform=transform, cache=str(tmp_path / "cache"),
                content_hash=cache.content_hash, predictions=tmp_path / "predictions.tsv",
                facts=[tmp_path / "facts.json"], names=NAMES, maps=["md"], modality="dwi",
            ),
            tmp_path / f"carry-{who}",
        )["out_file"]
        for who, image, transform in zip(SHIFTS, images, transforms, strict=True)
    ]  # fmt: skip
    gathered = run(
        GatherMaps(
            files=files, participants=list(SHIFTS), sessions=["", ""],
            predictions=tmp_path / "predictions.tsv",
            attributions=[{"name": "diktiometryfa", "method": "diktiometry", "measure": "fa"}],
            maps=["md"], grid=vars(GRID), classes=["HC", "PD"], model="x", modality="dwi",
            atlas="AAL", ipsilateral=mirrored,
        ),
        tmp_path / "gather",
    )  # fmt: skip
    return SimpleNamespace(mirrored=mirrored, files=files, gathered=gathered, folder=tmp_path)


def peak_mm(volume):
    return GRID.affine @ [*np.unravel_index(np.abs(volume).argmax(), GRID.shape), 1]


def expected_mm(mirrored):
    """The spot, or where its mirror image is on a grid whose middle is not at 0."""
    if not mirrored:
        return SPOT
    return np.array([2 * GRID.origin_mm[0] + 6 * (GRID.shape[0] - 1) - SPOT[0], *SPOT[1:]])


def test_spots_come_to_one_place_as_the_network_saw_their_sides(study):
    stack = np.load(study.gathered["stacks"][0])
    md = np.load(study.gathered["stacks"][1])
    for row, turned in enumerate((False, study.mirrored)):
        for volume in (stack[row], md[row]):
            assert_allclose(peak_mm(volume)[:3], expected_mm(turned), atol=6.1)
        assert stack[row].max() == pytest.approx(0.9, abs=0.12)
    share, shown = np.load(study.gathered["brain"])
    assert set(np.unique(share)) <= {0, 0.5, 1}
    assert shown.max() > 0


def test_at_the_rim_a_map_is_not_darkened_by_what_lies_outside(study):
    """The brain has .25 everywhere: so has its rim after interpolation."""
    with np.load(study.files[0]) as maps:
        inside = maps[BRAIN]
        far = inside & (maps["diktiometryfa"] < 0.01)
        assert 2800 < inside.sum() < 3400
        least, most = np.percentile(maps["md"][far], (0.1, 99.9))
    assert most / least < 1.1


def test_who_has_no_transform_is_left_out_of_stack_and_table(study):
    table = pd.read_csv(study.gathered["people"], sep="\t")
    assert list(table["participant_id"]) == ["sub-01", "sub-02"]
    assert list(table["fold"]) == [1, 2]
    assert np.load(study.gathered["stacks"][0]).shape[0] == 2


def test_products_are_in_template_space_and_a_person_s_map_as_the_person_is(study):
    (products,) = study.gathered["products"]
    name = "sub-02/dwi/sub-02_mod-dwi_space-MNI152NLin2009cAsym_model-x_target-PD_"
    (path,) = [one for one in products if one.startswith(name)]
    image = nib.load(products[path]["file"])
    assert int(image.header["sform_code"]) == 4
    assert_allclose(peak_mm(image.get_fdata())[:3], SPOT, atol=6.1)
    assert "Resolution" in products[path]["sidecar"]
    means = [one for one in products if "_stat-mean_" in one and one.endswith(".nii.gz")]
    assert len(means) == 2
    assert [one for one in products if one.endswith("_atlas-AAL_heatmap.tsv")]
    said = json.dumps([one["sidecar"] for one in products.values()])
    assert ("ipsilateral" in said) == study.mirrored


def test_nobody_at_all_is_an_error(study):
    with pytest.raises(InputError, match="nobody's maps"):
        run(
            GatherMaps(
                files=["", ""], participants=list(SHIFTS), sessions=["", ""],
                predictions=study.folder / "predictions.tsv", attributions=[], maps=["md"],
                grid=vars(GRID), classes=["HC", "PD"], model="x", modality="dwi", atlas="AAL",
            ),
            study.folder / "none",
        )  # fmt: skip


def test_ways_are_those_of_the_t1w_images_that_the_tensors_lie_on(tmp_path):
    options = DwiOptions("none", 4.0)
    for who, reference in (("01", "T1w"), ("02", "dwi"), ("03", "T1w")):
        path = tmp_path / dwi_paths(Scan(who, "", Path()), options)["registered"]
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        source = f"bids::sub-{who}/anat/sub-{who}_desc-preproc_{reference}.nii.gz"
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(
            json.dumps({"SpatialReference": source})
        )
    way = tmp_path / T1W.paths(Scan("01", "", Path()), options.t1w)["to_template"]
    way.parent.mkdir(parents=True)
    way.write_bytes(b"")
    assert ways_to_template(tmp_path, options) == {("01", ""): way}
    assert MODALITY.ways is ways_to_template
