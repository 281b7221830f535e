"""Slices show left on the left whatever the storage; charts survive thin data; files are small."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipelines import charts, figures

SHAPE = (24, 30, 26)
AFFINE = np.array([[4.0, 0, 0, -46], [0, 4, 0, -58], [0, 0, 4, -50], [0, 0, 0, 1]])


def ball(centre_mm, radius_mm, affine=AFFINE, shape=SHAPE):
    """1 inside a ball in RAS+ mm, else 0."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = grid @ affine[:3, :3].T + affine[:3, 3]
    return (np.linalg.norm(world - centre_mm, axis=-1) < radius_mm).astype(np.float32)


def brain(affine=AFFINE, shape=SHAPE):
    return ball((0, 0, 0), 44, affine, shape)


def stored(data, codes):
    """The same image in RAS+ mm, its voxels stored in another order."""
    image = nib.Nifti1Image(data.astype(np.float32), AFFINE)
    transform = nib.orientations.ornt_transform(
        nib.io_orientation(AFFINE), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(transform)
    assert nib.aff2axcodes(turned.affine) == tuple(codes)
    return turned


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(float)


def cell(figure, row, column, n_slices=5):
    """Pixels of one slice of a mosaic."""
    picture = pixels(figure)
    box = figure.axes[row * n_slices + column].get_window_extent()
    height = picture.shape[0]
    return picture[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)]


def halves(patch):
    """Brightness of the left and the right half, the letters at the top left out."""
    body = patch[patch.shape[0] // 4 : -patch.shape[0] // 5].sum(axis=(0, 2))
    middle = body.size // 2
    return body[:middle].sum(), body[-middle:].sum()


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "LPI", "PIR", "SAL"])
@pytest.mark.parametrize("row", [0, 1])
def test_left_of_the_brain_is_left_in_the_picture(codes, row):
    data = 0.2 * brain() + ball((-24, 0, 0), 12)
    left, right = halves(cell(figures.plot_slices(stored(data, codes), n_slices=5), row, 2))
    assert left > 1.3 * right


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PIR"])
def test_overlay_of_another_storage_and_grid_lands_on_the_right_side(codes):
    spot = stored(ball((-24, 0, 0), 12), codes)
    figure = figures.plot_slices(stored(0.3 * brain(), "LPS"), spot, n_slices=5)
    colour = cell(figure, 0, 2)
    red = np.clip(colour[..., 0] - colour[..., 2], 0, None)
    middle = red.shape[1] // 2
    assert red[:, :middle].sum() > 10 * red[:, -middle:].sum()


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASR"])
def test_front_and_top(codes):
    data = 0.2 * brain() + ball((0, 24, 0), 12)
    axial, sagittal = (
        cell(figures.plot_slices(stored(data, codes), n_slices=5), row, 2) for row in (0, 2)
    )
    rows = axial.sum(axis=(1, 2))
    assert rows[: rows.size // 2].sum() > 1.2 * rows[rows.size // 2 :].sum()
    back, front = halves(sagittal)
    assert front > 1.3 * back


def test_letters_and_millimetres_are_on_every_slice():
    figure = figures.plot_slices(stored(brain(), "LPS"), n_slices=5)
    for axes in figure.axes[:10]:
        words = [text.get_text() for text in axes.texts]
        assert words[:2] == ["L", "R"]
        assert words[2][:1] in "zy"
    assert any("(L)" in text.get_text() for axes in figure.axes[10:] for text in axes.texts)


def test_hemispheres_of_an_image_far_from_the_origin():
    moved = AFFINE.copy()
    moved[0, 3] += 90
    figure = figures.plot_slices((brain(), moved), n_slices=5)
    sides = [axes.texts[2].get_text()[-3:] for axes in figure.axes[10:]]
    assert sides[:2] == ["(L)", "(L)"]
    assert sides[-2:] == ["(R)", "(R)"]


def test_slice_labels_are_world_coordinates():
    data = 0.2 * brain() + ball((0, 0, 30), 6)
    overlay = ball((0, 0, 30), 6)
    for codes in ("RAS", "LPI"):
        figure = figures.plot_slices(stored(data, codes), stored(overlay, codes), n_slices=3)
        heights = [
            float(axes.texts[2].get_text().replace(figures.MINUS, "-")[2:])
            for axes in figure.axes[:3]
        ]
        assert np.mean(heights) == pytest.approx(30, abs=4)


def test_oblique_images_say_that_coordinates_are_approximate():
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    figure = figures.plot_slices((brain(turn @ AFFINE), turn @ AFFINE), n_slices=3)
    assert "≈" in figure.axes[0].texts[2].get_text()


def test_an_array_alone_has_no_sides():
    array = np.zeros((12, 12, 12), np.float32)
    array[2:9, 2:9, 2:9] = 1
    figure = figures.plot_slices(array, overlay=torch.from_numpy(array))
    said = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert not said & {"L", "R", "P", "A"}
    assert any(text.startswith("k ") for text in said)


def test_overlay_limits():
    values = np.linspace(0, 2, 1000)
    assert figures.overlay_limits(values) == (0, pytest.approx(1.99, abs=0.01))
    low, high = figures.overlay_limits(np.r_[values, -values / 2])
    assert low == -high
    assert figures.overlay_limits(np.zeros(5)) == (0, 1)
    assert figures.overlay_limits(np.array([np.nan, 0.0])) == (0, 1)


def test_threshold_hides_what_is_below():
    anatomy = (0.3 * brain(), AFFINE)
    weak = (2 * ball((-24, 0, 0), 12), AFFINE)
    grey = pixels(figures.plot_slices(anatomy, weak, threshold=3, overlay_range=(0, 5)))
    mosaic = grey[:, :850]
    assert np.abs(mosaic[..., 0] - mosaic[..., 2]).max() < 3


@pytest.mark.parametrize("data", [np.zeros(SHAPE), np.full(SHAPE, np.nan), np.ones(SHAPE)])
def test_empty_volumes_do_not_crash(data, tmp_path):
    figures.save(figures.plot_slices((data, AFFINE), (data * 0, AFFINE)), tmp_path / "x.png")


def test_four_dimensions_are_refused():
    with pytest.raises(ValueError, match="3D"):
        figures.plot_slices((np.zeros((3, 3, 3, 2)), np.eye(4)))


def test_contour_follows_the_mask():
    figure = figures.mask_contour((brain(), AFFINE), (brain(), AFFINE))
    picture = pixels(figure)
    assert (picture[..., 2] - picture[..., 0] > 80).sum() > 200
    figures.registration_overlay((brain(), AFFINE), (brain(), AFFINE))


@pytest.mark.parametrize("codes", ["RAS", "LAS", "PIR"])
def test_the_glass_brain_has_left_on_the_left_and_says_so(codes):
    """A ball in the left temporal lobe is blue on the left of the views from behind and above."""
    figure = figures.glass_brain(stored(-4 * ball((-40, -10, -10), 12), codes), units="t")
    picture = pixels(figure)
    blue = picture[..., 2] > picture[..., 0] + 30
    shown = []
    for axes in figure.axes:
        box = axes.get_window_extent()
        words = {text.get_text() for text in axes.texts}
        shown.append((words, blue[:, round(box.x0) : round(box.x1)].sum(axis=0)))
    both = [columns for words, columns in shown if {"L", "R"} <= words]
    assert len(both) == 2
    for columns in both:
        half = len(columns) // 2
        assert columns[:half].sum() > 50
        assert not columns[half:].any()
    (left,) = [columns for words, columns in shown if "left side" in words]
    (right,) = [columns for words, columns in shown if "right side" in words]
    assert left.sum() > 50
    assert not right.any()


def test_a_glass_brain_without_anything_in_it(tmp_path):
    figure = figures.glass_brain(nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE), title="t")
    assert figures.save(figure, tmp_path / "g.png").stat().st_size < 100_000
    assert "nothing\nto show" in texts(figure)


def test_saved_files_are_small_and_reproducible(tmp_path):
    rng = np.random.default_rng(0)
    shape = (96, 114, 96)
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = (-96, -132, -78)
    anatomy = (brain(affine, shape) * rng.uniform(0.5, 1, shape), affine)
    overlay = (rng.normal(size=shape), affine)
    paths = [
        figures.save(figures.plot_slices(anatomy, overlay), tmp_path / "deep" / f"{k}.png")
        for k in range(2)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size < 300_000


@pytest.fixture
def predictions():
    return pd.DataFrame(
        {
            "participant_id": ["sub-1", "sub-2", "sub-3", "sub-4"],
            "label": ["AD", "AD", "CN", "CN"],
            "probability": [0.9, 0.4, 0.6, 0.1],
            "predicted": ["AD", "CN", "AD", "CN"],
        }
    )


def texts(figure):
    return " ".join(
        text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))
    )


def test_roc_writes_the_area(predictions):
    assert "AUC 0.75" in texts(charts.roc(predictions, "AD"))
    assert "both classes" in texts(charts.roc(predictions[:2], "AD"))


def test_probabilities_name_those_called_wrong(predictions):
    words = texts(charts.probabilities(predictions, "AD"))
    assert "sub-2" in words
    assert "sub-3" in words
    assert "sub-1" not in words


def test_confusion_shows_counts():
    table = pd.DataFrame({"label": ["AD", "CN"], "AD": [7, 0], "CN": [3, 0]})
    words = texts(charts.confusion(table))
    assert "7" in words
    assert "70% of AD" in words


def test_region_ranking_orders_by_the_first_class():
    table = pd.DataFrame(
        {
            "name": ["low", "high", "middle"],
            "sum_AD": [0.1, -3.0, 1.0],
            "sum_CN": [9.0, 0.0, 0.0],
        }
    )
    figure = charts.region_ranking(table, ["AD", "CN"], top=2)
    assert [one.get_text() for one in figure.axes[0].get_yticklabels()] == ["high", "middle"]
    assert "no column" in texts(charts.region_ranking(table, ["PD"]))


def test_learning_curves_of_unequal_lengths():
    folds = [
        pd.DataFrame(
            {
                "epoch": range(1, n),
                "train_loss": 1.0,
                "validation_loss": 1.0,
                "validation_balanced_accuracy": 0.5,
                "selected": [float(epoch == n - 2) for epoch in range(1, n)],
            }
        )
        for n in (4, 9)
    ]
    loss, accuracy = charts.learning_curves(folds).axes
    for axes in (loss, accuracy):
        dots = axes.collections[-1]
        assert dots.get_label() == "epoch kept"
        assert dots.get_offsets()[:, 0].tolist() == [2, 7]
    ends = {line.get_xdata()[-1] for line in accuracy.lines if len(line.get_xdata()) > 2}
    assert ends == {3, 8}  # where each fold stopped
    unvalidated = [fold.assign(validation_loss=np.nan) for fold in folds]
    loss = charts.learning_curves(unvalidated).axes[0]
    assert loss.collections[-1].get_offsets()[:, 0].tolist() == [2, 7]
    assert "No training history" in texts(charts.learning_curves([]))


def test_registrations_stand_beside_each_other_with_their_medians():
    qc = pd.DataFrame(
        {
            "registration": ["none", "none", "linear", "linear", "linear"],
            "template_correlation": [0.2, 0.4, 0.8, 0.9, np.nan],
            "template_overlap": [0.6, 0.7, 0.95, 0.97, 0.96],
        }
    )
    figure = charts.qc_by_registration(qc)
    first = figure.axes[0]
    assert [one.get_text() for one in first.get_xticklabels()] == ["linear", "none"]
    heights = [strip.get_offsets()[:, 1].tolist() for strip in first.collections[::2]]
    assert heights == [[0.8, 0.9], [0.2, 0.4]]
    medians = [line.get_segments()[0][0, 1] for line in first.collections[1::2]]
    assert medians == pytest.approx([0.85, 0.3])


def test_qc_scatter_names_the_flagged():
    qc = pd.DataFrame(
        {
            "participant_id": ["sub-1", "sub-2"],
            "mask_volume_ml": [1400, 700],
            "template_correlation": [0.9, 0.4],
            "flags": ["n/a", "mask_volume_low"],
        }
    )
    words = texts(charts.qc_scatter(qc))
    assert "sub-2" in words
    assert "sub-1" not in words
    assert "No quality" in texts(charts.qc_scatter(qc[["participant_id"]]))


def test_flair_is_drawn_by_its_overlap_with_the_template():
    qc = pd.DataFrame(
        {
            "participant_id": ["sub-01", "sub-02"],
            "registration": ["linear", "none"],
            "mask_volume_ml": [1400.0, 1500.0],
            "template_overlap": [0.96, 0.7],
            "flags": ["n/a", "low overlap"],
        }
    )
    words = texts(charts.qc_scatter(qc))
    assert "sub-02" in words
    assert "overlap with the template (Dice)" in words
    assert len(charts.qc_by_registration(qc).axes) == 1


def test_maps_of_different_strength_are_brought_to_one_scale():
    data = np.zeros((4, 4, 4), np.float32)
    data[0, 0, :3] = (5, -20, 0)
    scaled = figures.over_limit((data, np.eye(4))).get_fdata()
    assert scaled[0, 0, 0] == pytest.approx(5 / np.percentile([5, 20], 99.5))
    assert scaled[0, 0, 1] == -1
    assert np.allclose(figures.over_limit((1000 * data, np.eye(4))).get_fdata(), scaled)


def test_regions_that_stand_out_in_any_variant_are_drawn():
    table = pd.DataFrame(
        {"name": ["Flat", "Only_b", "Only_a"], "a": [0.1, 0.0, -1.0], "b": [0.1, 0.9, 0.0]}
    )
    words = texts(charts.region_variants(table, ["a", "b"], top=2))
    assert "Only a" in words
    assert "Only b" in words
    assert "Flat" not in words


@pytest.mark.parametrize("count", [3, 19, 999])
def test_counts_of_permutations_are_whole_and_bars_are_few(count):
    figure = charts.null_distribution(np.random.default_rng(0).gumbel(5, 1, count), 7.0)
    axes = figure.axes[0]
    assert all(float(one).is_integer() for one in axes.get_yticks())
    assert len(axes.patches) <= max(5, count**0.5)
    assert sum(bar.get_height() for bar in axes.patches) == count


def test_null_distribution():
    words = texts(charts.null_distribution(np.linspace(3, 5, 100), 4.7, 6.2))
    assert "4.70" in words
    assert "6.20" in words


def test_a_blanked_region_does_not_make_the_rest_white():
    from pipelines.figures import _Brain, _view

    data = np.full((20, 20, 20), -0.5)
    data[4:16, 4:16, 4:16] = np.random.default_rng(0).uniform(0.5, 1.5, (12, 12, 12))
    blanked = np.zeros(data.shape, bool)
    blanked[8:12, 8:12, 8:12] = True
    data[blanked] = -0.5
    low, high = _view(_Brain(data, np.eye(4)), blanked).window
    assert low <= 0.5
    assert high > 1.0


@pytest.mark.parametrize("codes", ["RAS", "LPS"])
def test_columns_show_one_set_of_slices_of_several_maps(codes):
    """A spot on the left at z = -10 is drawn there, in its own column, whatever the storage."""
    spot = 6 * ball((-20, 10, -10), 8)
    maps = {
        "first": stored(spot, codes),
        "second": stored(-spot, codes),
        "none": stored(0 * spot, "RAS"),
    }
    figure = figures.plot_columns(stored(brain(), "RAS"), maps, (-10.0, 10.0, 22.0), across=2)
    assert [text.get_text() for text in figure.texts] == list(maps)
    slices = figure.axes[:-1]
    assert len(slices) == 9
    picture = pixels(figure)
    for number, axes in enumerate(slices):
        box = axes.get_window_extent()
        rows = slice(round(picture.shape[0] - box.y1), round(picture.shape[0] - box.y0))
        shown = picture[rows, round(box.x0) : round(box.x1)]
        colour = shown.max(-1) - shown.min(-1) > 60
        column, place = divmod(number, 3)
        if column == 2 or place > 0:
            assert colour.mean() < 0.002, number
            continue
        assert colour.mean() > 0.005
        assert np.argwhere(colour)[:, 1].mean() < shown.shape[1] / 2  # left is left
        warm = shown[colour][:, 0].mean() > shown[colour][:, 2].mean()
        assert warm == (column == 0)


def test_columns_without_anything_say_so():
    figure = figures.plot_columns(stored(brain(), "RAS"), {"a": stored(0 * brain(), "RAS")}, (0.0,))
    assert any("nothing" in text.get_text() for text in figure.axes[-1].texts)
