"""The auto-encoders: sizes, losses, batches, training that resumes."""

import numpy as np
import pytest
import torch

from models.anomaly import METHODS, build
from models.anomaly.fitting import fit
from models.errors import InputError

PAPER = (121, 145, 121)
SHAPE = (24, 28, 18)
QUICK = {
    "ae": {"widths": (4, 8), "slices": 6, "epochs": 3, "batch_size": 4},
    "dae": {"widths": (4, 8), "slices": 6, "epochs": 3, "batch_size": 4},
    "sae": {"width": 4, "patches_per_image": 8, "batch_size": 8, "epochs": 3},
    "sae3d": {"width": 4, "patches_per_image": 8, "batch_size": 8, "epochs": 3},
}


def controls(n=4):
    rng = np.random.default_rng(0)
    brain = np.zeros(SHAPE, bool)
    brain[3:-3, 3:-3, 2:-3] = True
    volumes = rng.random((n, 2, *SHAPE)).astype(np.float32) * brain
    return volumes.astype(np.float16), brain


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_sizes_of_the_papers():
    ae = build("ae", PAPER, channels=2)
    slices = torch.rand(2, 2, 121, 145)
    assert ae.encoder(slices).shape == (2, 256, 4, 5)
    assert ae(slices).shape == slices.shape
    paddings = [m.output_padding for m in ae.decoder if isinstance(m, torch.nn.ConvTranspose2d)]
    assert paddings == [(1, 1), (1, 0), (0, 0), (0, 0), (0, 0)]
    assert count(ae) == 786_146
    assert count(build("sae", PAPER, channels=2)) == 12_034
    assert count(build("sae3d", PAPER, channels=2)) == 35_778
    sae = build("sae", PAPER, channels=2)
    sizes, values = [], torch.rand(1, 2, 15, 15)
    for layer in [*sae.encoder, *sae.decoder]:
        values = layer(values)
        if not isinstance(layer, torch.nn.ReLU | torch.nn.Sigmoid):
            sizes.append(values.shape[-1])
    assert sizes == [13, 6, 4, 2, 4, 6, 12, 14, 15]
    assert values.shape == (1, 2, 15, 15)


@pytest.mark.parametrize("shape", [(121, 145, 121), (64, 76, 64), (33, 47, 10), (32, 32, 4)])
def test_slices_come_back_in_their_size(shape):
    model = build("ae", shape, slices=0).eval()
    assert model(torch.rand(1, 1, *shape[:2])).shape == (1, 1, *shape[:2])


def test_loss_of_pairs_is_equation_2():
    torch.manual_seed(0)
    batch = torch.rand(2, 3, 2, 15, 15)
    for how, scale in (("mean", 1 / 450), ("sum", 1)):
        model = build("sae", PAPER, channels=2, reconstruction=how)
        slow = 0.0
        for first, second in zip(*batch, strict=True):
            one, other = (model.encoder(x[None]).flatten() for x in (first, second))
            error = sum((model(x[None])[0] - x).square().sum() for x in (first, second))
            cosine = one @ other / (one.norm() * other.norm())
            slow += (error * scale - 0.005 * cosine) / 3
        torch.testing.assert_close(model.loss(batch), slow)


def test_loss_of_slices_is_the_mean_absolute_error_and_noise_changes_the_input_only():
    batch = torch.rand(3, 2, 24, 28)
    batch[..., :4] = 0
    model = build("ae", SHAPE, channels=2, widths=(4,)).eval()
    torch.testing.assert_close(model.loss(batch), (model(batch) - batch).abs().mean())
    noisy = build("dae", SHAPE, channels=2, widths=(4,)).eval()
    noise = noisy._coarse_noise(batch)
    assert (noise[..., :4] == 0).all()
    assert 0.05 < noise[..., 4:].std() < 0.25
    assert noisy.loss(batch) != noisy.loss(batch)


@pytest.mark.parametrize("method", ["ae", "sae"])
def test_batches_hold_every_slice_or_as_many_patches_as_asked(method):
    volumes, brain = controls()
    model = build(method, SHAPE, channels=2, **QUICK[method])
    generator = torch.Generator().manual_seed(0)
    batches = list(model.batches(torch.from_numpy(volumes), torch.from_numpy(brain), generator))
    if method == "sae":
        assert [one.shape for one in batches] == [(2, 4, 2, 15, 15)] * 4
    else:
        levels = model.central(torch.from_numpy(brain))
        assert levels == [6, 7, 8, 9, 10, 11]
        seen = torch.cat(batches)
        expected = volumes[..., levels].transpose(0, 4, 1, 2, 3).reshape(-1, 2, *SHAPE[:2])
        assert seen.sum() == pytest.approx(expected.astype(np.float32).sum(), rel=1e-5)
        assert len(seen) == len(expected)


@pytest.mark.parametrize("method", METHODS)
def test_training_learns_repeats_and_resumes(method, tmp_path):
    volumes, brain = controls()

    def train(epochs, checkpoint=None):
        torch.manual_seed(0)
        model = build(method, SHAPE, channels=2, **{**QUICK[method], "epochs": epochs})
        history = fit(model, volumes, brain, seed=3, checkpoint=checkpoint)
        return model, history

    whole, history = train(4)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[-1]["loss"] < history[0]["loss"]
    assert not whole.training
    train(2, tmp_path / "half.pt")
    resumed, again = train(4, tmp_path / "half.pt")
    assert again == history
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_reconstructions_cover_the_brain_and_say_where_they_do_not(method):
    volumes, brain = controls(1)
    model = build(method, SHAPE, channels=2, **QUICK[method]).eval()
    found = model.reconstruct(torch.from_numpy(volumes[0]), torch.from_numpy(brain))
    assert found.shape == (2, *SHAPE)
    finite = torch.isfinite(found).all(0).numpy()
    if method.endswith("ae") and not method.startswith("s"):
        assert sorted(set(np.nonzero(finite)[2])) == model.central(torch.from_numpy(brain))
    else:
        assert np.array_equal(finite, brain)
    known = found[torch.isfinite(found)]
    assert known.min() >= 0
    assert known.max() <= 1


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("vae", {}),
        ("ae", {"colour": 1}),
        ("ae", {"epochs": 0}),
        ("ae", {"widths": (4,) * 9}),
        ("sae", {"inference": "none"}),
        ("sae", {"stride": 9}),
        ("sae", {"batch_size": 1}),
        ("sae", {"dimensions": 4}),
    ],
)
def test_impossible_options_are_refused(method, options):
    with pytest.raises(InputError):
        build(method, SHAPE, **options)


def test_pairs_need_two_controls_and_a_loss_must_be_finite():
    volumes, brain = controls(1)
    with pytest.raises(ValueError, match="two images"):
        fit(build("sae", SHAPE, channels=2, **QUICK["sae"]), volumes, brain)
    volumes, brain = controls(2)
    volumes[0, 0, 10] = np.nan
    with pytest.raises(FloatingPointError, match="loss is nan"):
        fit(build("ae", SHAPE, channels=2, **QUICK["ae"]), volumes, brain)
