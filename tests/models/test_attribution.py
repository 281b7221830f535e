"""What every attribution method promises, whatever it computes."""

import doctest
from copy import deepcopy
from functools import lru_cache

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

import models.attribution
from models.attribution import (
    CONTEXT,
    METHODS,
    OF_TENSORS,
    attribute,
    check_parameters,
    context,
    defaults,
    explain,
    halving,
    is_out_of_memory,
)
from models.attribution.images import heatmap_like, to_batch
from models.errors import InputError

# --- a network, people, and parameters that make every method quick ------------------------------


def network(dims=3, dtype=torch.float32, channels=1, outputs=2, seed=0):
    """A small trained-looking network: BatchNorm has seen something, dropout would be noticed."""
    torch.manual_seed(seed)
    conv, norm, pool = {
        2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d),
        3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d),
    }[dims]
    model = nn.Sequential(
        nn.Sequential(conv(channels, 3, 3), norm(3), nn.ReLU(inplace=True), pool(2)),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(3 * 2**dims, 5),
        nn.ELU(),
        nn.Linear(5, outputs),
    )
    with torch.no_grad():
        model[0][1].running_mean.normal_()
        model[0][1].running_var.uniform_(0.5, 2)
    return model.to(dtype).eval()


def people(n=3, dims=3, dtype=torch.float32, channels=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, *[6] * dims, generator=generator, dtype=torch.float64).to(dtype)


def atlas(dims=3):
    """A region in every half of the axes, and no background."""
    return 1 + sum(2**axis * half for axis, half in enumerate(np.indices((6,) * dims) // 3))


def options(method, dims=3):
    """Parameters without which a method cannot do, or takes long."""
    return {
        "occlusion": {"patch_mm": 3.0, "stride_mm": 2.0},
        "region_occlusion": {"regions": atlas(dims)},
        "integrated_gradients": {"steps": 4},
        "smoothgrad": {"samples": 3},
    }.get(method, {})


def explained(model, volumes, method, **parameters):
    dims = volumes.dim() - 2
    return attribute(model, volumes, method=method, **options(method, dims) | parameters)


EVERY = pytest.mark.parametrize("method", [one for one in METHODS if one not in OF_TENSORS])

# --- the contract --------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("dims", [2, 3])
def test_float32_maps_of_the_inputs_shape_come_back(method, dims):
    model, volumes = network(dims), people(dims=dims)
    found = explained(model, volumes, method)
    assert found.heatmap.shape == volumes.shape
    assert found.heatmap.dtype == torch.float32
    assert found.heatmap.isfinite().all()
    assert not found.heatmap.requires_grad
    assert not found.score.requires_grad
    assert torch.allclose(found.score, model(volumes)[:, 1], atol=1e-6)
    assert (found.heatmap.flatten(1).abs().amax(1) > 0).any()
    assert all(share.shape == (3,) for share in found.ledger.values())
    if found.ledger:
        shares = torch.stack([v for name, v in found.ledger.items() if name != "start"])
        assert torch.allclose(shares.sum(0), found.ledger["start"], rtol=1e-4, atol=1e-6)
        mapped = found.heatmap.flatten(1).sum(1).to(found.ledger["map"])
        assert torch.allclose(found.ledger["map"], mapped, rtol=1e-4, atol=1e-6)


@EVERY
def test_the_classes_are_explained_apart(method):
    model, volumes = network(), people()
    one, other = (explained(model, volumes, method, target=t) for t in (0, 1))
    assert not torch.allclose(one.heatmap, other.heatmap)
    assert torch.allclose(torch.stack([one.score, other.score], 1), model(volumes), atol=1e-6)


@EVERY
def test_one_output_has_two_classes(method):
    model, volumes = network(outputs=1), people()
    logit = model(volumes)[:, 0]
    for target, sign in ((1, 1), (0, -1)):
        found = explained(model, volumes, method, target=target)
        assert torch.allclose(found.score, sign * logit, atol=1e-6)
    with pytest.raises(InputError, match="no class 2"):
        explained(model, volumes, method, target=2)


@EVERY
def test_a_sigmoid_or_softmax_at_the_end_changes_nothing(method):
    for outputs, end in ((1, nn.Sigmoid()), (2, nn.Softmax(1))):
        model, volumes = network(outputs=outputs), people()
        expected = explained(model, volumes, method)
        found = explained(nn.Sequential(*model, end), volumes, method)
        assert torch.allclose(found.heatmap, expected.heatmap, atol=1e-6)
        assert torch.allclose(found.score, expected.score, atol=1e-6)


@EVERY
def test_a_batch_is_its_people_one_by_one(method):
    model, volumes = network(dtype=torch.float64), people(dtype=torch.float64)
    together = explained(model, volumes, method)
    for i in range(len(volumes)):
        alone = explained(model, volumes[i : i + 1], method)
        assert torch.allclose(together.heatmap[i], alone.heatmap[0], rtol=1e-6, atol=1e-9)
        assert together.ledger.keys() == alone.ledger.keys()
        for name, share in together.ledger.items():
            assert torch.allclose(share[i], alone.ledger[name][0], atol=1e-12)


@lru_cache
def in_float64(method, dims=3):
    return explained(network(dims, torch.float64), people(dims=dims, dtype=torch.float64), method)


# Half precision counts where the network was trained in it. 2D: torch convolves it on every CPU.
@EVERY
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)]
)
def test_any_floating_dtype_does(method, dtype, error):
    model, volumes = network(2, dtype), people(dims=2, dtype=dtype)
    found, expected = explained(model, volumes, method), in_float64(method, 2)
    assert found.heatmap.dtype == torch.float32
    difference = (found.heatmap - expected.heatmap).norm() / expected.heatmap.norm()
    assert difference < error


@EVERY
def test_several_channels_do(method):
    model, volumes = network(channels=2), people(channels=2)
    found = explained(model, volumes, method)
    assert found.heatmap.shape == volumes.shape


@EVERY
def test_training_mode_and_no_grad_around_it_do_not_matter(method):
    model, volumes = network(), people()
    expected = explained(model, volumes, method).heatmap
    model.train()
    with torch.no_grad():
        found = explained(model, volumes, method).heatmap
    assert torch.equal(found, expected)
    with torch.inference_mode():
        found = explained(model, volumes, method).heatmap
        again = explained(model, volumes + 0, method).heatmap
    assert torch.equal(found, expected)
    assert torch.equal(again, expected)


@EVERY
def test_it_can_be_asked_twice(method):
    model, volumes = network(), people()
    first = explained(model, volumes, method)
    assert torch.equal(explained(deepcopy(model), volumes, method).heatmap, first.heatmap)
    assert torch.equal(explained(model, volumes, method).heatmap, first.heatmap)


def test_nobody_is_no_crash_of_its_own():
    with pytest.raises(InputError, match="no class -1"):
        explained(network(), people(1), "saliency", target=-1)


# --- the model comes back as it was --------------------------------------------------------------


def snapshot(model):
    """Everything of a model that somebody could miss afterwards."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "identity": [id(value) for value in (*model.parameters(), *model.buffers())],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "modules": [(name, id(m)) for name, m in model.named_modules()],
        "inplace": [getattr(m, "inplace", None) for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "hooks": [len(getattr(m, kind)) for m in model.modules() for kind in hooks],
    }


def assert_unchanged(model, before):
    after = snapshot(model)
    for name in set(before) - {"state", "gradients"}:
        assert after[name] == before[name], name
    assert all(torch.equal(after["state"][k], v) for k, v in before["state"].items())
    for now, then in zip(after["gradients"], before["gradients"], strict=True):
        assert (now is None) == (then is None)
        assert now is None or torch.equal(now, then)


class Breaks(nn.Module):
    """A layer that fails whenever it is run with numbers."""

    def forward(self, x):
        return breaking(x)


@torch.fx.wrap
def breaking(x):
    raise RuntimeError("a fuse blew")


@pytest.mark.parametrize("training", [True, False])
@EVERY
def test_the_model_comes_back_as_it_was(method, training):
    model, volumes = network().train(training), people()
    model[0][1].training = not training  # a frozen BatchNorm in a network that is training
    model[3].weight.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    before, given = snapshot(model), volumes.clone()
    explained(model, volumes, method)
    assert_unchanged(model, before)
    assert torch.equal(volumes, given)
    assert not volumes.requires_grad

    broken = nn.Sequential(*model[:3], Breaks(), *model[3:])
    before = snapshot(broken)
    with pytest.raises((RuntimeError, InputError), match=r"a fuse blew|Breaks|breaking"):
        explained(broken, volumes, method)
    assert_unchanged(broken, before)
    assert torch.equal(volumes, given)


@EVERY
def test_volumes_that_require_a_gradient_get_none(method):
    model, volumes = network(), people().requires_grad_(True)
    found = explained(model, volumes, method)
    assert volumes.grad is None
    assert volumes.requires_grad
    assert not found.heatmap.requires_grad


# --- memory --------------------------------------------------------------------------------------


@EVERY
def test_a_batch_that_does_not_fit_is_halved(method, monkeypatch):
    model, volumes = network(dtype=torch.float64), people(5, dtype=torch.float64)
    expected = explained(model, volumes, method)
    module, name = METHODS[method]
    explainer, sizes = getattr(models.attribution.import_module(module), name), []

    def small(model, volumes, target, **parameters):
        sizes.append(len(volumes))
        if len(volumes) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return explainer(model, volumes, target, **parameters)

    small.__signature__ = models.attribution.signature(explainer)
    monkeypatch.setattr(f"{module}.{name}", small)
    found = explained(model, volumes, method)
    assert sizes == [5, 2, 3, 1, 2]
    assert torch.allclose(found.heatmap, expected.heatmap, atol=1e-9)
    assert torch.allclose(found.score, expected.score)
    for share, whole in expected.ledger.items():
        assert torch.allclose(found.ledger[share], whole, atol=1e-9)


def test_one_person_that_does_not_fit_is_an_error():
    def never(volumes):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        halving(never, people(4))


def test_other_errors_are_not_tried_again():
    tried = []

    def wrong(volumes):
        tried.append(len(volumes))
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        halving(wrong, people(4))
    assert tried == [4]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("out of range"), False),
        (ValueError("no"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


# --- names and values ----------------------------------------------------------------------------


def test_unknown_methods_and_parameters_are_input_errors():
    model, volumes = network(), people(1)
    with pytest.raises(
        InputError, match=r"no attribution 'shap'; choose one of: saliency, .*lrp_0"
    ):
        attribute(model, volumes, method="shap")
    with pytest.raises(InputError, match="saliency has no parameter 'beta'; it has: form"):
        attribute(model, volumes, method="saliency", beta=1.0)
    with pytest.raises(InputError, match="no parameter 'model'"):
        check_parameters("saliency", {"model": model})
    with pytest.raises(InputError, match="lrp_alpha_beta has no parameter 'epsilon'"):
        check_parameters("lrp_alpha_beta", {"beta": 1.0, "epsilon": 1.0})
    with pytest.raises(InputError, match="input_x_gradient has no parameter 'x'; it has: none"):
        explain(model, volumes, method="input_x_gradient", x=1)
    check_parameters("lrp_epsilon", {"epsilon": 1e-4, "bias": "ignore", "start": "logit"})


@EVERY
def test_defaults_are_what_a_call_without_parameters_uses(method):
    spelled = defaults(method)
    check_parameters(method, spelled)
    assert not set(spelled) & set(CONTEXT)
    model, volumes = network(), people(1)
    given = options(method)
    found = attribute(model, volumes, method=method, **spelled | given)
    assert torch.equal(found.heatmap, attribute(model, volumes, method=method, **given).heatmap)


def test_some_defaults():
    common = {"start": "probability", "batchnorm": "fold", "layer": "", "unit": 0}
    assert defaults("saliency") == {"form": "abs"}
    assert defaults("input_x_gradient") == {}
    assert defaults("deep_taylor") == common
    assert defaults("lrp_epsilon") == {"epsilon": 1e-3, "bias": "absorb", **common}
    assert defaults("lrp_alpha_beta") == {
        "beta": 0.0,
        "input_layer": "same",
        "bias": "ignore",
        "one_signed": "pass",
        **common,
    }


def test_context_is_what_describes_the_images_or_the_run():
    assert context("saliency") == set()
    assert "voxel_mm" in context("occlusion")
    assert "regions" in context("region_occlusion")
    for method in METHODS:
        assert context(method) <= set(CONTEXT)
        assert not context(method) & set(defaults(method))


def test_the_example_in_the_docstring_runs():
    found = doctest.testmod(models.attribution)
    assert found.attempted > 5
    assert found.failed == 0


# --- images in, heatmaps out ---------------------------------------------------------------------

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 0, 1.5, -7], [0, 3.0, 0, 4], [0, 0, 0, 1]])  # LSA


def lopsided(*channels, dims=3):
    """An image with one bright voxel, away from every symmetry."""
    image = np.zeros((*channels, *(6, 7, 8)[:dims]), np.float32)
    image[(..., *(1, 4, 5)[:dims])] = 3
    return image


class Looks(nn.Module):
    """Its score is the sum of the image, so that input x gradient is the image."""

    def __init__(self, dims=3, channels=1):
        super().__init__()
        kind = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.conv = kind(channels, 2, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, x):
        return self.conv(x).flatten(2).mean(2)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize(
    ("channels", "shape"), [(1, ()), (1, (1,)), (1, (1, 1)), (1, (3, 1)), (2, (2,)), (2, (3, 2))]
)
@pytest.mark.parametrize("dims", [2, 3])
def test_arrays_and_tensors_come_back_in_their_shape(dims, channels, shape, kind):
    volume = kind(lopsided(*shape, dims=dims))
    heatmap = explain(Looks(dims, channels), volume, method="input_x_gradient")
    assert type(heatmap) is type(volume)
    assert heatmap.shape == volume.shape
    np.testing.assert_array_equal(np.asarray(heatmap) != 0, np.asarray(volume) != 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.int16),
        lambda a: a.astype(">f4"),
        lambda a: a.astype(np.uint16),
        lambda a: a != 0,
        lambda a: np.asfortranarray(a),
        lambda a: a[::-1, :, ::-2],
    ],
)
def test_arrays_of_any_dtype_and_order(change):
    volume = change(lopsided())
    before = volume.copy()
    volume.setflags(write=False)
    heatmap = explain(Looks(), volume, method="input_x_gradient")
    assert heatmap.dtype == np.float32
    np.testing.assert_array_equal(heatmap != 0, volume != 0)
    np.testing.assert_array_equal(volume, before)


def image_of(data, kind=nib.Nifti1Image):
    image = kind(data, AFFINE)
    if kind is not nib.MGHImage:
        image.set_qform(AFFINE, 4)
        image.set_sform(AFFINE, 4)
        image.header.set_xyzt_units("mm", "sec")
        image.header["descrip"] = b"a scan"
        image.header["cal_max"] = 99
    return image


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_nifti_image_stays_in_its_place(kind):
    image = image_of(lopsided(), kind)
    heatmap = explain(Looks(), image, method="input_x_gradient")
    assert type(heatmap) is kind
    assert heatmap.shape == image.shape
    np.testing.assert_array_equal(heatmap.affine, image.affine)
    assert nib.aff2axcodes(heatmap.affine) == nib.aff2axcodes(image.affine) == ("L", "S", "A")
    assert heatmap.header.get_zooms() == image.header.get_zooms()
    assert heatmap.header.get_xyzt_units() == ("mm", "sec")
    for name in ("qform_code", "sform_code"):
        assert int(heatmap.header[name]) == 4
    assert heatmap.get_data_dtype() == np.float32
    assert float(heatmap.header["cal_max"]) == 0
    assert float(image.header["cal_max"]) == 99
    np.testing.assert_array_equal(np.argwhere(heatmap.get_fdata()), [[1, 4, 5]])


def test_a_scaled_nifti_image_is_explained_with_its_values():
    data = lopsided().astype(np.int16)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_slope_inter(0.5, 0)
    stored = nib.Nifti1Image.from_bytes(image.to_bytes())
    heatmap = explain(Looks(), stored, method="input_x_gradient")
    again = nib.Nifti1Image.from_bytes(heatmap.to_bytes())
    values = np.asanyarray(again.dataobj)
    assert values.dtype == np.float32
    assert values.max() == pytest.approx(stored.get_fdata().max() / lopsided().size)
    assert again.dataobj.slope == 1
    assert again.dataobj.inter == 0


def test_channels_of_a_nifti_image_are_last():
    data = np.stack([lopsided(), 2 * lopsided()[::-1]], -1)
    heatmap = explain(Looks(channels=2), image_of(data), method="input_x_gradient")
    assert heatmap.shape == (6, 7, 8, 2)
    np.testing.assert_array_equal(np.asanyarray(heatmap.dataobj) != 0, data != 0)
    alone = explain(Looks(), image_of(lopsided()[..., None]), method="input_x_gradient")
    assert alone.shape == (6, 7, 8, 1)


def test_other_formats_of_nibabel_come_back_as_nifti():
    heatmap = explain(Looks(), image_of(lopsided(), nib.MGHImage), method="input_x_gradient")
    assert type(heatmap) is nib.Nifti1Image
    np.testing.assert_allclose(heatmap.affine, AFFINE, atol=1e-5)
    np.testing.assert_array_equal(np.argwhere(heatmap.get_fdata()), [[1, 4, 5]])


@pytest.mark.parametrize("method", ["lrp_alpha_beta", "grad_cam", "occlusion"])
def test_left_stays_left(method):
    """What looks at one side only, where something is, is explained on that side."""
    model = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(336, 2))
    nn.init.ones_(model[0].weight)
    nn.init.zeros_(model[3].weight)
    with torch.no_grad():
        model[3].weight[1].view(6, 7, 8)[:2, 4:, 5:] = 1
    given = {"patch_mm": 2.0, "stride_mm": 2.0} if method == "occlusion" else {}
    volume = np.zeros((6, 7, 8), np.float32)
    volume[:2, 4:, 5:] = 1
    heatmap = explain(model, volume, method=method, **given)
    image = explain(model, image_of(volume), method=method, **given)
    centre = np.average(np.indices((6, 7, 8)).reshape(3, -1), axis=1, weights=heatmap.ravel())
    assert (np.abs(centre - [0.5, 5, 6]) < 1).all()
    if method != "occlusion":  # its patches are in mm
        np.testing.assert_allclose(np.asanyarray(image.dataobj), heatmap, atol=1e-7)


def test_an_image_brings_the_size_of_its_voxels(monkeypatch):
    seen = {}

    def occlusion(model, volumes, target, *, voxel_mm=1.0):
        seen["voxel_mm"] = voxel_mm
        return models.attribution.Explanation(volumes, volumes[:, 0, 0, 0, 0], {})

    monkeypatch.setattr("models.attribution.occlusion.occlusion", occlusion)
    explain(Looks(), image_of(lopsided()), method="occlusion")
    assert seen["voxel_mm"] == pytest.approx((2, 3, 1.5))
    explain(Looks(), image_of(lopsided()), method="occlusion", voxel_mm=(1, 1, 1))
    assert seen["voxel_mm"] == (1, 1, 1)
    explain(Looks(), lopsided(), method="occlusion")
    assert seen["voxel_mm"] == 1.0


def test_an_image_of_a_network_in_another_dtype_is_converted():
    model = Looks().double()
    batch, voxel_mm = to_batch(lopsided(), model)
    assert batch.dtype == torch.float64
    assert batch.shape == (1, 1, 6, 7, 8)
    assert voxel_mm is None
    heatmap = explain(model, torch.from_numpy(lopsided()), method="saliency")
    assert heatmap.dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "batch"),
    [
        ((8,), (1, 1, 8)),
        ((4, 2), (1, 1, 4, 2)),
        ((2, 2, 2), (1, 1, 2, 2, 2)),
        ((1, 2, 2, 2), (1, 1, 2, 2, 2)),
        ((3, 1, 2, 2, 2), (3, 1, 2, 2, 2)),
    ],
)
def test_without_a_convolution_the_array_says_what_it_is(shape, batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    found, _ = to_batch(np.zeros(shape, np.float32), model)
    assert found.shape == batch
    assert heatmap_like(np.zeros(shape), found).shape == shape


@pytest.mark.parametrize(
    ("volume", "model", "message"),
    [
        (np.zeros((6, 7)), Looks(), r"is \(6, 7\), but the network takes \(x, y, z\) or \(1 chann"),
        (np.zeros((2, 6, 7, 8)), Looks(), r"\(2, 6, 7, 8\).*\(1 channel, x, y, z\)"),
        (np.zeros((6, 7, 8)), Looks(channels=2), r"takes \(2 channels, x, y, z\) or \(people, 2"),
        (np.zeros((1, 1, 1, 6, 7, 8)), Looks(), r"\(people, 1 channel, x, y, z\)"),
        (np.zeros((6, 7, 8)), Looks(dims=2), r"\(x, y\) or \(1 channel, x, y\)"),
        (image_of(lopsided(2)), Looks(channels=2), r"takes \(x, y, z, 2 channels\)"),
        (image_of(lopsided(1, 1)), Looks(), r"takes \(x, y, z\) or \(x, y, z, 1 channel\)"),
        (np.full((6, 7, 8), np.nan), Looks(), "no finite numbers"),
        (np.full((6, 7, 8), np.inf), Looks(), "no finite numbers"),
        (torch.full((6, 7, 8), torch.nan), Looks(), "no finite numbers"),
        (np.zeros((6, 7, 8), complex), Looks(), "real numbers"),
        (torch.zeros((6, 7, 8), dtype=torch.complex64), Looks(), "real numbers"),
        (np.full((6, 7, 8), "a"), Looks(), "real numbers"),
        ("T1w.nii.gz", Looks(), r"not str; read a file with nibabel\.load"),
        ([[1.0]], Looks(), "not list"),
    ],
)
def test_images_that_do_not_fit_are_input_errors(volume, model, message):
    with pytest.raises(InputError, match=message):
        explain(model, volume, method="saliency")


class Turns(nn.Module):
    """A network that torch.fx cannot follow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 1)

    def forward(self, x):
        return self.conv(x if x.sum() > 0 else -x).flatten(2).sum(2)


def test_a_network_that_cannot_be_read_still_takes_images():
    heatmap = explain(Turns(), lopsided(), method="saliency")
    assert heatmap.shape == (6, 7, 8)
    assert heatmap.any()
