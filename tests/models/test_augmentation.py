"""Every change against its definition, image by image and voxel by voxel."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from models.errors import InputError
from models.tensor import matrices, mirrored
from models.training.augmentation import AXES, Augmentation

SHAPE = (2, 7, 8, 9)  # channels, x, y, z


def batch(n: int) -> torch.Tensor:
    """Images in which every voxel is different and none is 0."""
    torch.manual_seed(0)
    return torch.rand(n, *SHAPE) + 1


def shifted(image: np.ndarray, steps: tuple[int, int, int]) -> np.ndarray:
    """Voxel (x, y, z) goes to (x, y, z) + steps, one by one; all others are 0."""
    moved = np.zeros_like(image)
    for voxel in np.ndindex(image.shape[1:]):
        target = tuple(np.add(voxel, steps))
        if all(0 <= t < n for t, n in zip(target, image.shape[1:], strict=True)):
            moved[(slice(None), *target)] = image[(slice(None), *voxel)]
    return moved


def what_happened(image, result, reach):
    """The one (flipped, steps) that leads from ``image`` to ``result``."""
    ways = [
        (flipped, steps)
        for flipped in (False, True)
        for steps in product(*(range(-r, r + 1) for r in reach))
        if np.array_equal(shifted(image[:, ::-1] if flipped else image, steps), result)
    ]
    assert len(ways) == 1
    return ways[0]


def run(augmentation, images, seed=0, labels=None):
    labels = [False] * len(images) if labels is None else labels
    draws = augmentation.draw(labels, torch.Generator().manual_seed(seed))
    return augmentation.apply(images, draws)


def test_the_default_changes_nothing():
    images = batch(4)
    assert torch.equal(run(Augmentation(), images), images)


def test_flip_mirrors_left_and_right_and_nothing_else():
    images = batch(5)
    assert torch.equal(run(Augmentation(flip_probability=1), images), images.flip(2))


@pytest.mark.parametrize(
    ("axes", "reach"),
    [
        (("sagittal",), (2, 0, 0)),
        (("coronal",), (0, 2, 0)),
        (("axial",), (0, 0, 2)),
        (("sagittal", "axial"), (1, 0, 1)),
    ],
)
def test_shifts_are_whole_voxels_of_the_named_axes_with_zeros_coming_in(axes, reach):
    images = batch(40)
    results = run(
        Augmentation(flip_probability=0.5, shift_voxels=max(reach), shift_axes=axes), images
    )
    found = {
        what_happened(image.numpy(), result.numpy(), reach)
        for image, result in zip(images, results, strict=True)
    }
    flips, steps = {flip for flip, _ in found}, {step for _, step in found}
    assert flips == {False, True}
    assert steps == set(product(*(range(-r, r + 1) for r in reach)))


def test_draws_are_even_and_apart_for_every_image():
    images = torch.ones(2000, 1, 7, 1, 1)
    results = run(Augmentation(shift_voxels=2), images)
    lost = (results == 0).sum((1, 2, 3, 4))
    from_left = (results[:, 0, 0, 0, 0] == 0) & (lost > 0)
    steps = torch.where(from_left, lost, -lost)
    counts = torch.bincount(steps + 2, minlength=5)
    assert len(counts) == 5
    assert (counts - 400).abs().max() < 80  # 4.5 standard deviations
    ramp = torch.arange(7.0).reshape(1, 1, 7, 1, 1).expand(2000, -1, -1, -1, -1)
    flipped = (run(Augmentation(flip_probability=0.3), ramp)[:, 0, 0, 0, 0] == 6).sum()
    assert abs(int(flipped) - 600) < 95


EVERYTHING = Augmentation(
    gamma=0.5,
    noise_sd=0.1,
    flip_probability=0.5,
    rotation_degrees=17,
    rotation_axes=("sagittal", "coronal", "axial"),
    shift_voxels=2,
    shift_axes=("sagittal", "coronal", "axial"),
)
ALONE = [
    Augmentation(gamma=0.5),
    Augmentation(noise_sd=0.1),
    Augmentation(flip_probability=1.0),
    Augmentation(flip_probability=1.0, flip_negates=(0,)),
    Augmentation(rotation_degrees=17),
    Augmentation(shift_voxels=2),
]


@pytest.mark.parametrize("augmentation", [*ALONE, EVERYTHING])
def test_the_images_given_are_left_as_they_are(augmentation):
    images = batch(6)
    before = images.clone()
    assert not torch.equal(run(augmentation, images), before)
    assert torch.equal(images, before)


def test_the_generator_alone_decides():
    images, augmentation = batch(12), EVERYTHING
    torch.manual_seed(1)
    one = run(augmentation, images, seed=3)
    torch.manual_seed(2)
    assert torch.equal(run(augmentation, images, seed=3), one)
    assert not torch.equal(run(augmentation, images, seed=4), one)


def test_a_batch_may_be_divided():
    images = batch(7)
    draws = EVERYTHING.draw([False] * 7, torch.Generator().manual_seed(0))
    whole = EVERYTHING.apply(images, draws)
    parts = [EVERYTHING.apply(images[rows], draws[rows]) for rows in ([0, 1, 2], [3], [4, 5, 6])]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)


def test_what_was_drawn_before_stays_when_more_is_asked_for():
    """Recipes of flips and shifts draw what they drew before there was more."""
    plain = Augmentation(flip_probability=0.5, shift_voxels=2)
    generator = torch.Generator().manual_seed(4)
    flipped = torch.rand(9, generator=generator) < 0.5
    steps = torch.randint(-2, 3, (9,), generator=generator)
    draws = plain.draw([True] * 9, torch.Generator().manual_seed(4))
    assert torch.equal(draws.flipped, flipped)
    assert torch.equal(draws.steps[:, 0], steps)


# --- mirrors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "turned"), [("both", [0, 1, 2, 3]), ("negative", [1, 3]), ("positive", [0, 2])]
)
def test_mirrors_of_one_class_leave_the_other_alone(classes, turned):
    images = batch(4)
    changed = run(
        Augmentation(flip_probability=1, flip_classes=classes), images, labels=[True, False] * 2
    )
    for i in range(4):
        assert torch.equal(changed[i], images[i].flip(1) if i in turned else images[i])


def test_components_across_the_mirror_turn_their_sign():
    images = batch(3)
    changed = run(Augmentation(flip_probability=1, flip_negates=(1,)), images)
    assert torch.equal(changed[:, 0], images[:, 0].flip(1))
    assert torch.equal(changed[:, 1], -images[:, 1].flip(1))


def test_the_mirror_is_left_and_right():
    images = torch.zeros(1, 1, *SHAPE[1:])
    images[0, 0, 0, 2, 5] = 1  # x grows to the right (RAS+): the left-most voxel
    changed = run(Augmentation(flip_probability=1), images)
    assert changed[0, 0, SHAPE[1] - 1, 2, 5] == 1


# --- turns ---------------------------------------------------------------------------------------


def turned(image, angles):
    """One channel, turned about x, then y, then z, by SciPy, with zeros outside."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        one, other = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = c
        turn[other, one], turn[one, other] = s, -s
        matrix = turn @ matrix
    middle = (np.array(image.shape) - 1) / 2
    inverse = np.linalg.inv(matrix)
    offset = middle - inverse @ middle
    return affine_transform(image, inverse, offset, order=1, mode="grid-constant", cval=0)


@pytest.mark.parametrize(
    "axes", [("axial",), ("sagittal",), ("coronal",), ("sagittal", "coronal", "axial")]
)
def test_turns_are_those_of_a_slow_resampling(axes):
    augmentation = Augmentation(rotation_degrees=17, rotation_axes=axes)
    images = batch(3).double()
    draws = augmentation.draw([True] * 3, torch.Generator().manual_seed(1))
    assert (draws.angles != 0).any(0).tolist() == [
        a in axes for a in ("sagittal", "coronal", "axial")
    ]
    found = augmentation.apply(images, draws)
    for image, result, angles in zip(images, found, draws.angles.double(), strict=True):
        for channel, changed in zip(image, result, strict=True):
            assert np.allclose(changed, turned(channel.numpy(), angles.numpy()), atol=1e-5)


def test_turns_are_drawn_evenly_up_to_the_angle():
    augmentation = Augmentation(rotation_degrees=17)
    angles = augmentation.draw([True] * 4000, torch.Generator().manual_seed(0)).angles[:, 2]
    degrees = np.rad2deg(angles.numpy())
    assert np.abs(degrees).max() <= 17
    assert np.histogram(degrees, 8, (-17, 17))[0] == pytest.approx([500] * 8, abs=100)


def test_a_quarter_turn_of_a_cube_is_exact():
    from models.training.augmentation import _rotate

    images = torch.rand(1, 1, 5, 5, 5)
    quarter = torch.tensor([[0.0, 0.0, np.pi / 2]])
    # Counter-clockwise seen from above: what was at +x (right) comes to +y (front).
    assert torch.allclose(_rotate(images, quarter), images.rot90(1, (2, 3)), atol=1e-5)
    assert images.rot90(1, (2, 3))[0, 0, 2, 4, 2] == images[0, 0, 4, 2, 2]


# --- intensities ---------------------------------------------------------------------------------


def brain_of(n):
    images = batch(n)
    images[:, :, :2] = 0
    images[:, :, :, :, 7:] = 0
    return images


def test_gamma_bends_between_the_ends_of_the_brain():
    augmentation, images = Augmentation(gamma=0.5), brain_of(5)
    draws = augmentation.draw([True] * 5, torch.Generator().manual_seed(0))
    assert draws.exponents.min() >= 1 / 1.5
    assert draws.exponents.max() <= 1.5
    found = augmentation.apply(images, draws)
    for image, result, power in zip(images.numpy(), found.numpy(), draws.exponents, strict=True):
        inside = image[image != 0]
        low, high = inside.min(), inside.max()
        expected = low + (high - low) * ((inside - low) / (high - low)) ** float(power)
        assert np.allclose(result[image != 0], expected, atol=1e-5)
        assert (result[image == 0] == 0).all()


def test_gamma_takes_images_that_are_empty_flat_or_negative():
    images = torch.zeros(3, 1, 3, 3, 3)
    images[1] = 2
    images[2, 0, 0] = -torch.rand(3, 3)
    found = run(Augmentation(gamma=0.5), images)
    assert found.isfinite().all()
    assert torch.equal(found[:2], images[:2])


def test_noise_has_its_spread_and_stays_in_the_brain():
    images = torch.zeros(2, 1, 30, 30, 30)
    images[:, :, 5:25] = 7
    found = run(Augmentation(noise_sd=0.2), images) - images
    inside = found[:, :, 5:25]
    assert (found[:, :, :5] == 0).all()
    assert inside.std().item() == pytest.approx(0.2, rel=0.02)
    assert abs(inside.mean().item()) < 0.005
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flip_probability": 1.5}, "flip_probability = 1.5"),
        ({"gamma": -1.0}, "gamma = -1"),
        ({"shift_voxels": -1}, "shift_voxels = -1"),
        ({"flip_classes": "AD"}, "choose one of: both, negative, positive"),
        ({"shift_axes": ("x",)}, "axis 'x' is unknown"),
        ({"rotation_axes": ("z",)}, "axis 'z' is unknown"),
    ],
)
def test_values_that_cannot_be_used_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        Augmentation(**options)


# --- tensors -------------------------------------------------------------------------------------


def tensor_image():
    """Cigars along x in a ball about the middle, (1, 6, 21, 21, 21)."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(21.0) - 10] * 3, indexing="ij"))
    image = torch.zeros(1, 6, 21, 21, 21)
    image[0, 0], image[0, 3], image[0, 5] = 1.6, 0.4, 0.3
    return image * (grid.norm(dim=0) < 8)


@pytest.mark.parametrize("axis", ["sagittal", "coronal", "axial"])
def test_tensors_turn_with_their_image(axis):
    """A turned image has turned fibres: their ends lie where the image's rotation carries them."""
    augmentation = Augmentation(rotation_degrees=30, rotation_axes=(axis,), tensors=True)
    draws = augmentation.draw([True], torch.Generator().manual_seed(4))
    image = tensor_image()
    turned = augmentation.apply(image, draws)
    middle = matrices(turned[0, :, 10, 10, 10])
    number = AXES[axis]
    angle = float(draws.angles[0, number])
    one, other = [(1, 2), (2, 0), (0, 1)][number]
    turn = torch.eye(3)
    turn[one, one] = turn[other, other] = np.cos(angle)
    turn[other, one], turn[one, other] = np.sin(angle), -np.sin(angle)
    assert torch.allclose(
        middle, turn @ torch.diag(torch.tensor([1.6, 0.4, 0.3])) @ turn.T, atol=1e-5
    )
    # The image itself: a bright voxel along +x of the middle is carried to turn @ x.
    spot = torch.zeros(1, 6, 21, 21, 21)
    spot[0, :, 16, 10, 10] = 1
    there = augmentation.apply(spot, draws).abs().sum(1)[0]
    found = torch.tensor(np.unravel_index(int(there.argmax()), there.shape)) - 10.0
    assert torch.linalg.vector_norm(found - turn @ torch.tensor([6.0, 0, 0])) < 1.2
    eigenvalues = torch.linalg.eigvalsh(middle)
    assert torch.allclose(eigenvalues, torch.tensor([0.3, 0.4, 1.6]), atol=1e-5)


def test_mirrored_tensors_change_the_sign_of_two_components():
    augmentation = Augmentation(flip_probability=1.0, tensors=True)
    image = torch.rand(2, 6, 4, 5, 6)
    draws = augmentation.draw([True, False], torch.Generator().manual_seed(0))
    expected = mirrored(image, axis=2, channel=1)
    assert torch.equal(augmentation.apply(image, draws), expected)


def test_tensors_need_six_channels():
    augmentation = Augmentation(shift_voxels=1, tensors=True)
    draws = augmentation.draw([True], torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="six channels, not for images with 1"):
        augmentation.apply(torch.rand(1, 1, 4, 4, 4), draws)
