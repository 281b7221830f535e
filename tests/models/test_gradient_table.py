"""Gradient tables: what is mended, what is refused, shells, and left and right of b-vectors."""

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from models.errors import InputError
from models.gradient_table import (
    GradientTable,
    along_image,
    along_world,
    checked,
    distinct_directions,
    for_tensor,
)

LAS = np.diag([-2.0, 2, 2, 1])
SOURCE = "sub-01_dwi.nii.gz"


def sphere(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def raw(b_values, seed=0):
    """b-values (n,) and b-vectors (3, n) as a file has them."""
    values = np.array(b_values, float)
    vectors = sphere(len(values), seed)
    vectors[values <= 50] = 0
    return values, vectors.T


def read(values, vectors, volumes=None, affine=LAS):
    return checked(
        values, vectors, volumes=volumes or np.size(values), affine=affine, source=SOURCE
    )


# --- left and right ------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["LAS", "RAS", "LPS", "RPI", "PSR", "AIL"])
@pytest.mark.parametrize("tilt", [0, 20])
def test_one_world_direction_whatever_the_file_axes(axes, tilt):
    """A direction of the world, written by FSL's rule for each orientation, comes back.

    The rule is written here from its words: components along the voxel axes, and that along the
    first axis negated where the determinant is positive.
    """
    angle = np.deg2rad(tilt)
    world = np.eye(4)
    world[:3, :3] = 2 * np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), world)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
    )
    affine = image.as_reoriented(turn).affine
    directions = sphere(9)
    bvecs = []
    for direction in directions:
        along = [direction @ affine[:3, k] / np.linalg.norm(affine[:3, k]) for k in range(3)]
        if np.linalg.det(affine[:3, :3]) > 0:
            along[0] = -along[0]
        bvecs.append(along)
    assert_allclose(along_world(np.array(bvecs), affine), directions, atol=1e-12)
    assert_allclose(along_image(directions, affine), bvecs, atol=1e-12)


def test_the_same_numbers_mean_other_directions_in_las_and_ras():
    """In LAS, the radiological order, the file's x points to the left: so does FSL's."""
    right_front = np.array([[0.6, 0.8, 0.0]])
    assert_allclose(along_world(right_front, LAS), [[-0.6, 0.8, 0]])
    assert_allclose(along_world(right_front, np.diag([2.0, 2, 2, 1])), [[-0.6, 0.8, 0]])
    assert_allclose(along_world(right_front, np.diag([-2.0, -2, 2, 1])), [[0.6, -0.8, 0]])


# --- mending and refusing ------------------------------------------------------------------------


def test_a_good_table_passes_silently():
    values, vectors = raw([0, 1000, 1000, 5])
    table, notes = read(values, vectors)
    assert notes == []
    assert table.is_b0.tolist() == [True, False, False, True]
    assert_allclose(np.linalg.norm(table.directions, axis=1), [0, 1, 1, 0])


@pytest.mark.parametrize("b0", [0, 1.25, 5, 50])
def test_b0s_are_not_exactly_zero(b0):
    values, vectors = raw([b0, *[1000] * 7])
    vectors[:, 0] = (np.nan, 0, 0)  # some converters write that for a b0
    table, _ = read(values, vectors)
    assert table.is_b0.tolist() == [True] + 7 * [False]
    assert (table.directions[0] == 0).all()


def test_transposed_vectors_and_columns_of_values_are_turned():
    values, vectors = raw([0, *[1000] * 7])
    straight, _ = read(values, vectors)
    turned, notes = read(values[:, None], vectors.T)
    assert_allclose(turned.directions, straight.directions)
    assert "transposed" in notes[0]


def test_vectors_of_other_lengths_are_scaled():
    values, vectors = raw([0, *[1000] * 7])
    table, notes = read(values, 1.2 * vectors)
    assert_allclose(np.linalg.norm(table.directions[1:], axis=1), 1)
    assert "20%" in notes[0]
    assert read(values, vectors.round(3))[1] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"volumes": 9}, r"9 volumes, but its \.bval file has 8"),
        ({"vectors": np.zeros((3, 7))}, r"8 volumes, but its \.bvec file has 7"),
        ({"vectors": np.zeros((4, 8))}, "4x8 numbers"),
        ({"values": [1000.0] * 8}, "no volume without diffusion weighting"),
        ({"values": [0, -1, *[1000.0] * 6]}, "below 0"),
        ({"values": [np.nan, *[1000.0] * 7]}, "no numbers"),
        ({"vectors": np.zeros((3, 8))}, "volume 1 has b = 1000 but no direction"),
    ],
)
def test_what_cannot_be_mended_is_refused_with_the_file(change, words):
    values, vectors = raw([0, *[1000] * 7])
    given = {"values": values, "vectors": vectors, "volumes": 8} | change
    with pytest.raises(InputError, match=words) as raised:
        read(given["values"], given["vectors"], given["volumes"])
    assert SOURCE in str(raised.value)


# --- shells --------------------------------------------------------------------------------------


def test_shells_gather_what_lies_close():
    values, vectors = raw([0, 5, 700, 705, 695, 2000, 1995, 3000])
    table, _ = read(values, vectors)
    assert table.shells == pytest.approx([700, 1997.5, 3000])
    assert table.on_shell(table.shells[1]).tolist() == [False] * 5 + [True, True, False]


@pytest.mark.parametrize(
    ("b_values", "used", "words"),
    [
        ([0, *[1000] * 8], 9, []),
        ([0, *[700] * 8, *[1500] * 8, *[3000] * 8], 17, ["b = 3000 was left out"]),
        ([0, *[2500] * 8], 9, ["underestimates"]),
        ([0, *[700] * 4, *[2000] * 8], 13, ["underestimates"]),  # four alone make no tensor
    ],
)
def test_which_shells_a_tensor_is_fitted_to(b_values, used, words):
    table, _ = read(*raw(b_values))
    chosen, notes = for_tensor(table, source=SOURCE)
    assert chosen.sum() == used
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


def test_few_or_flat_directions_are_refused():
    values = np.array([0.0, *[1000] * 8])
    one = np.tile([[0.0, 0.6, 0.8]], (9, 1))
    flat = np.array([[np.cos(a), np.sin(a), 0] for a in np.linspace(0, 3, 9)])
    five = np.repeat(sphere(5), 2, 0)[:9] * np.tile([1, -1], 5)[:9, None]
    for vectors, words in (
        (one, "has 1 different gradient directions, which"),
        (five, "has 5 different gradient directions, which"),
        (flat, "has 8 different gradient directions, and they do not span space"),
    ):
        vectors = vectors.copy()
        vectors[0] = 0
        table, _ = read(values, vectors.T)
        with pytest.raises(InputError, match=words):
            for_tensor(table, source=SOURCE)


def test_opposite_directions_are_one():
    assert distinct_directions(np.array([[0, 0, 1.0], [0, 0, -1], [0, 1, 0]])) == 2


# --- the design ----------------------------------------------------------------------------------


def test_the_design_is_that_of_the_signal():
    table, _ = read(*raw([0, *[1000] * 6]))
    tensor = 1e-3 * np.array([[1.4, 0.2, -0.1], [0.2, 0.6, 0.05], [-0.1, 0.05, 0.4]])
    signal = [
        np.log(300) - b * g @ tensor @ g
        for b, g in zip(table.b_values, table.directions, strict=True)
    ]
    rows, columns = np.triu_indices(3)
    assert_allclose(table.design() @ [*tensor[rows, columns], np.log(300)], signal)


def test_a_turned_head_turns_the_directions():
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    table = GradientTable(
        np.array([0.0, 1000, 1000]), np.array([[0, 0, 0], [1, 0, 0], [0, 0.6, 0.8]])
    )
    turned = table.rotated(np.stack([np.eye(3), turn, turn]))
    assert_allclose(turned.directions, [[0, 0, 0], [0, 1, 0], [-0.6, 0, 0.8]])
    assert turned.b_values is table.b_values
