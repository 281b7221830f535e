"""Whole images through patch auto-encoders: equal to cutting out every patch."""

import pytest
import torch

from models.anomaly import build
from models.anomaly.dense import PatchReader, centre_stages
from models.anomaly.patches import PairSampler, padded

SHAPE = {2: (19, 17, 3), 3: (18, 17, 16)}


def detector(dimensions, **options):
    torch.manual_seed(dimensions)
    method = "sae" if dimensions == 2 else "sae3d"
    return build(method, SHAPE[dimensions], channels=2, **options).double()


def image(dimensions):
    generator = torch.Generator().manual_seed(1)
    volume = torch.rand(2, *SHAPE[dimensions], generator=generator, dtype=torch.float64)
    brain = torch.zeros(SHAPE[dimensions], dtype=torch.bool)
    brain[:, 2:-1] = True  # up to the border of the image
    return volume, brain


def cut(wide, place, dimensions):
    """The patch around a voxel, one slice after the other."""
    x, y, z = (int(n) for n in place)
    if dimensions == 2:
        return wide[:, x : x + 15, y : y + 15, z]
    return wide[:, x : x + 15, y : y + 15, z : z + 15]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_centres_are_those_of_a_loop_over_patches(dimensions):
    model, (volume, brain) = detector(dimensions), image(dimensions)
    found = PatchReader(model.encoder, model.decoder, 15, dimensions)
    centres = found.centres(volume, brain)
    wide = padded(volume, 15, dimensions)
    middle = (slice(None), *[7] * dimensions)
    places = brain.nonzero()
    chosen = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:60]]
    for place in chosen:
        alone = model(cut(wide, place, dimensions)[None])[0][middle]
        torch.testing.assert_close(centres[(slice(None), *place)], alone, rtol=0, atol=1e-12)
    assert torch.isnan(centres[:, ~brain]).all()
    assert torch.isfinite(centres[:, brain]).all()


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("stride", [4, 15])
def test_overlap_is_the_weighted_mean_of_whole_patches(dimensions, stride):
    model, (volume, brain) = detector(dimensions), image(dimensions)
    reader = model.reader()
    found = reader.overlap(volume, brain, stride)
    wide = padded(volume, 15, dimensions)
    total, weight = torch.zeros_like(wide), torch.zeros_like(wide)
    window = reader._window()
    assert window.min() > 0
    assert window.max() == window[(7,) * dimensions]
    for place in reader.lattice(brain, stride):
        patch = cut(wide, place, dimensions)
        cut(total, place, dimensions).add_(model(patch[None])[0] * window)
        cut(weight, place, dimensions).add_(window)
    half = (slice(None), *[slice(7, -7)] * dimensions)
    mean = total[half] / weight[half]
    torch.testing.assert_close(found[:, brain], mean[:, brain], rtol=0, atol=1e-12)
    assert torch.isfinite(found[:, brain]).all()
    assert torch.isnan(found[:, ~brain]).all()


def test_overlap_shows_no_seams_where_patches_end():
    """A constant image is reconstructed the same everywhere away from the padding."""
    model = detector(2).float()
    brain = torch.ones(45, 45, 1, dtype=torch.bool)
    found = model.reader().overlap(torch.full((2, 45, 45, 1), 0.5), brain, 3)[:, 15:30, 15:30]
    centres = model.reader().centres(torch.full((2, 45, 45, 1), 0.5), brain)[:, 15:30, 15:30]
    assert found[0].std() < 0.25 * model(torch.full((1, 2, 15, 15), 0.5))[0, 0].std()
    assert centres[0].std() < 1e-6


@pytest.mark.parametrize("dimensions", [2, 3])
def test_weights_of_a_patch_fade_towards_every_edge_alike(dimensions):
    window = detector(dimensions).reader()._window()
    fade = window[(slice(None), *[7] * (dimensions - 1))]
    assert (fade.diff()[:7] > 0).all()
    assert fade[0] < 0.05 * fade[7]
    for same in (window.flip(*range(dimensions)), window.transpose(0, 1)):
        torch.testing.assert_close(window, same, rtol=0, atol=1e-6)  # made in single precision


def test_overlap_reaches_the_far_border_at_the_largest_stride():
    brain = torch.ones(30, 29, 2, dtype=torch.bool)
    found = detector(2).reader().overlap(torch.rand(2, 30, 29, 2).double(), brain, 15)
    assert torch.isfinite(found).all()


def test_codes_are_those_of_the_patches():
    model, (volume, brain) = detector(2), image(2)
    places = brain.nonzero()[::37]
    found = model.reader().codes(volume, places)
    wide = padded(volume, 15, 2)
    alone = torch.stack([model.encoder(cut(wide, p, 2)[None])[0].flatten() for p in places])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)


def test_what_cannot_be_read_densely_is_refused():
    model = detector(2)
    with pytest.raises(ValueError, match="patches of 15"):
        centre_stages(model.decoder, 2, 16, 17)
    strided = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, stride=2))
    with pytest.raises(ValueError, match="stride 1"):
        PatchReader(strided, model.decoder, 15, 2).centres(*image(2))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_pairs_are_patches_of_one_place_in_two_images(dimensions):
    shape = SHAPE[dimensions]
    code = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view(1, 1, *shape) + 1
    volumes = torch.cat([torch.cat([code + 10**5 * k, -code - 10**5 * k], 1) for k in range(3)])
    brain = torch.zeros(shape, dtype=torch.bool)
    brain[1, 3:6, 1] = brain[-1, -1, -1] = True
    drawn = PairSampler(volumes.double(), brain, 15, dimensions).draw(
        200, torch.Generator().manual_seed(0)
    )
    assert drawn.shape == (2, 200, 2, *[15] * dimensions)
    middle = (..., *[7] * dimensions)
    first, second = drawn[0][middle].double(), drawn[1][middle].double()
    person = (first[:, 0] // 10**5, second[:, 0] // 10**5)
    assert (person[0] != person[1]).all()
    assert {float(p) for p in torch.cat(person)} == {0.0, 1.0, 2.0}
    assert torch.equal(first[:, 0] % 10**5, second[:, 0] % 10**5)
    torch.testing.assert_close(first[:, 1], -first[:, 0])
    inside = set((code[0, 0][brain]).tolist())
    assert set((first[:, 0] % 10**5).tolist()) == inside
    wide = padded(volumes, 15, dimensions)
    place = (code[0, 0] == first[0, 0] % 10**5).nonzero()[0]
    expected = cut(wide[int(person[0][0])], place, dimensions)
    torch.testing.assert_close(drawn[0, 0].double(), expected.double())
