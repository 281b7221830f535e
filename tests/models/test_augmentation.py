"""Flips and shifts against their definition in NumPy."""

from itertools import product

import numpy as np
import pytest
import torch

from models.training.augmentation import Augmentation

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


def run(augmentation, images, seed=0):
    return augmentation(images, torch.Generator().manual_seed(seed))


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
    results = run(Augmentation(0.5, max(reach), axes), images)
    found = {
        what_happened(image.numpy(), result.numpy(), reach)
        for image, result in zip(images, results, strict=True)
    }
    flips, steps = {flip for flip, _ in found}, {step for _, step in found}
    assert flips == {False, True}
    assert steps == set(product(*(range(-r, r + 1) for r in reach)))


def test_draws_are_even_and_apart_for_every_image():
    images = torch.ones(2000, 1, 7, 1, 1)
    results = run(Augmentation(0.0, 2), images)
    lost = (results == 0).sum((1, 2, 3, 4))
    from_left = (results[:, 0, 0, 0, 0] == 0) & (lost > 0)
    steps = torch.where(from_left, lost, -lost)
    counts = torch.bincount(steps + 2, minlength=5)
    assert len(counts) == 5
    assert (counts - 400).abs().max() < 80  # 4.5 standard deviations
    ramp = torch.arange(7.0).reshape(1, 1, 7, 1, 1).expand(2000, -1, -1, -1, -1)
    flipped = (run(Augmentation(0.3), ramp)[:, 0, 0, 0, 0] == 6).sum()
    assert abs(int(flipped) - 600) < 95


@pytest.mark.parametrize("augmentation", [Augmentation(1.0), Augmentation(0.5, 2)])
def test_the_images_given_are_left_as_they_are(augmentation):
    images = batch(6)
    before = images.clone()
    assert not torch.equal(run(augmentation, images), before)
    assert torch.equal(images, before)


def test_the_generator_alone_decides():
    images, augmentation = batch(12), Augmentation(0.5, 2, ("sagittal", "coronal", "axial"))
    torch.manual_seed(1)
    one = run(augmentation, images, seed=3)
    torch.manual_seed(2)
    assert torch.equal(run(augmentation, images, seed=3), one)
    assert not torch.equal(run(augmentation, images, seed=4), one)
