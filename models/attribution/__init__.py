"""Why does the network say so? One call, any method.

>>> import numpy as np
>>> from torch import nn
>>> from models.attribution import explain
>>> model = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
>>> volume = np.ones((2, 2, 2), dtype="float32")
>>> heatmap = explain(model, volume, method="lrp_alpha_beta", target=1, beta=0)
>>> heatmap.shape
(2, 2, 2)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, signature
from math import isfinite
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

if TYPE_CHECKING:
    import torch
    from torch import nn

# Name -> (module, function). A method is a function (model, volumes, target, **parameters).
METHODS = {
    "saliency": ("models.attribution.gradients", "saliency"),
    "input_x_gradient": ("models.attribution.gradients", "input_x_gradient"),
    "guided_backprop": ("models.attribution.gradients", "guided_backprop"),
    "integrated_gradients": ("models.attribution.gradients", "integrated_gradients"),
    "smoothgrad": ("models.attribution.gradients", "smoothgrad"),
    "grad_cam": ("models.attribution.gradcam", "grad_cam"),
    "guided_grad_cam": ("models.attribution.gradcam", "guided_grad_cam"),
    "deep_taylor": ("models.attribution.lrp", "deep_taylor"),
    "lrp_0": ("models.attribution.lrp", "lrp_0"),
    "lrp_epsilon": ("models.attribution.lrp", "lrp_epsilon"),
    "lrp_gamma": ("models.attribution.lrp", "lrp_gamma"),
    "lrp_alpha_beta": ("models.attribution.lrp", "lrp_alpha_beta"),
    "lrp_flat": ("models.attribution.lrp", "lrp_flat"),
    "lrp_w2": ("models.attribution.lrp", "lrp_w2"),
    "lrp_composite": ("models.attribution.lrp", "lrp_composite"),
    "occlusion": ("models.attribution.occlusion", "occlusion"),
    "region_occlusion": ("models.attribution.occlusion", "region_occlusion"),
    "diktiometry": ("models.attribution.diktiometry", "diktiometry"),
}
# Methods that see all channels as one: their map is the same in each.
ACROSS_CHANNELS = ("grad_cam", "occlusion", "region_occlusion", "diktiometry")
# Methods that need the six components of a diffusion tensor as channels.
OF_TENSORS = ("diktiometry",)
# Methods that cover the regions of an atlas, and so need images that one fits.
OF_REGIONS = ("region_occlusion",)
# Parameters that describe the images or the run, not the method: they are no recipe values.
CONTEXT = ("voxel_mm", "regions", "progress", "checkpoint", "memory_mb")


@dataclass(frozen=True)
class Explanation:
    """Heatmaps of a batch and what is known about them.

    Attributes
    ----------
    heatmap : torch.Tensor
        Same shape as the input (N, C, *spatial); from :func:`attribute`, float32 on the CPU.
    score : torch.Tensor
        (N,) score of the explained class before softmax or sigmoid.
    ledger : dict of str to torch.Tensor
        For methods that conserve something, (N,) shares that add up to ``start``: ``map`` (sum of
        the heatmap) and what was absorbed (LRP: ``bias``, ``epsilon``, ``no_input``; integrated
        gradients: ``quadrature``). Empty for the others.
    """

    heatmap: "torch.Tensor"
    score: "torch.Tensor"
    ledger: dict[str, "torch.Tensor"]


def explain(
    model: "nn.Module",
    volume: Any,
    *,
    method: str,
    target: int = 1,
    autocast: bool = False,
    **parameters: Any,
) -> Any:
    """Heatmap of one image, in the type that the image came in.

    Parameters
    ----------
    model : nn.Module
        Any feed-forward network of (N, C, *spatial) to (N, outputs), on any device.
    volume : numpy.ndarray, torch.Tensor or nibabel image
        (x, y, z), or with channels first (C, x, y, z), or a batch (N, C, x, y, z); an image with
        channels has them last, as NIfTI does. 2D alike. The values must be scaled as in training.
    method : str
        One of :data:`METHODS`.
    target : int
        Class to explain: an output of the network; 1 or 0 if it has one output only.
    autocast : bool
        See :func:`attribute`.
    **parameters
        Of the method; ``help`` on its function lists them. Methods that work in millimetres take
        ``voxel_mm``, which an image brings with it.

    Returns
    -------
    The same type and shape, float32.

    Raises
    ------
    models.errors.InputError
        Unknown method or parameter, an image that does not fit the network, or a layer for which
        the method has no rule.
    """
    from models.attribution.images import heatmap_like, to_batch

    batch, voxel_mm = to_batch(volume, model)
    if voxel_mm is not None and "voxel_mm" in _names(_explainer(method, parameters)):
        parameters.setdefault("voxel_mm", voxel_mm)
    found = attribute(model, batch, method=method, target=target, autocast=autocast, **parameters)
    return heatmap_like(volume, found.heatmap)


def attribute(
    model: "nn.Module",
    volumes: "torch.Tensor",
    *,
    method: str,
    target: int = 1,
    autocast: bool = False,
    **parameters: Any,
) -> Explanation:
    """Explain the score of class ``target`` for every volume of a batch.

    The model comes back as it was: parameters, buffers, gradients, hooks and train/eval mode. A
    batch that does not fit into memory is halved until it does.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, *spatial) to (N, outputs) scores before softmax or sigmoid (one of these at
        its end is left out).
    volumes : torch.Tensor
        (N, C, *spatial); computed in the network's dtype, on its device.
    method : str
        One of :data:`METHODS`.
    target : int
        Class to explain.
    autocast : bool
        On CUDA, let torch compute in mixed precision. LRP never does: its ledger has to close.
    **parameters
        Of the method; see its own docstring.

    Raises
    ------
    models.errors.InputError
        Unknown method, parameter, or a layer for which the method has no rule.
    """
    import torch

    explainer = _explainer(method, parameters)
    _check_target(target)
    model = _bare(model)
    _check_people_apart(model)
    volumes, device = _checked(volumes, model)

    def explain_some(some: "torch.Tensor") -> Explanation:
        with (
            evaluating(model),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=autocast and device.type == "cuda"),
        ):
            own = some.clone() if some.is_inference() else some
            found: Explanation = _called(explainer, model, own.to(device), target, parameters)
        ledger = {name: share.detach().cpu() for name, share in found.ledger.items()}
        return Explanation(found.heatmap.detach().float().cpu(), found.score.detach().cpu(), ledger)

    return _joined(halving(explain_some, volumes))


def _called(explainer, model, volumes, target, parameters) -> Explanation:
    from models.errors import InputError

    try:
        return explainer(model, volumes, target, **parameters)
    except RuntimeError as error:
        if "shapes cannot be multiplied" not in str(error):
            raise
        shape = "x".join(map(str, volumes.shape[2:]))
        raise InputError(
            f"the network does not take images of {shape} voxels ({error}): bring them to the grid "
            "that it was trained on"
        ) from error


def _check_target(target: Any) -> None:
    from models.errors import InputError

    if not isinstance(target, int) or isinstance(target, bool):
        raise InputError(f"target is the number of a class, not {target!r}")


def _bare(model: "nn.Module") -> "nn.Module":
    """The network inside of what parallelises, averages or compiles it."""
    inner = getattr(model, "_orig_mod", None)
    if inner is None and type(model).__name__.endswith(("Parallel", "AveragedModel")):
        inner = getattr(model, "module", None)
    return model if inner is None else _bare(inner)


def _check_people_apart(model: "nn.Module") -> None:
    """Refuse layers by which a person's map would depend on who else is in the batch."""
    from torch.nn.modules.batchnorm import _BatchNorm

    from models.errors import InputError

    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise InputError(
                f"BatchNorm '{name}' keeps no running statistics: what a person's map shows would "
                "depend on who else is in the batch; train it with track_running_stats=True"
            )


def _checked(volumes: Any, model: "nn.Module") -> tuple["torch.Tensor", "torch.device"]:
    """Volumes as the network takes them, and where it is."""
    import torch

    from models.errors import InputError

    if not isinstance(volumes, torch.Tensor) or volumes.dim() < 2:
        raise InputError(
            "attribute takes a tensor (N, C, *spatial); explain takes arrays and images, too"
        )
    own = next((one for one in model.parameters() if one.is_floating_point()), None)
    if own is not None:
        volumes = volumes.to(own.dtype)
    if not bool(volumes.isfinite().all()):
        raise InputError("the images hold values that are no numbers: set them to 0 first")
    return volumes, volumes.device if own is None else own.device


@contextmanager
def evaluating(model: "nn.Module") -> Iterator[None]:
    """Eval mode; afterwards every module has the attributes and the mode that it had."""
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, attributes in before:  # a forward may store what it computes
            module.__dict__.clear()
            module.__dict__.update(attributes)


def halving(
    work: Callable[["torch.Tensor"], Explanation], volumes: "torch.Tensor"
) -> list[Explanation]:
    """``work`` on the volumes together or, where memory runs out, in halves."""
    try:
        return [work(volumes)]
    except (RuntimeError, MemoryError) as error:
        if len(volumes) < 2 or not is_out_of_memory(error):
            raise
    half = len(volumes) // 2
    return [*halving(work, volumes[:half]), *halving(work, volumes[half:])]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, on the GPU or on the CPU."""
    import torch

    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in said for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def _joined(found: list[Explanation]) -> Explanation:
    import torch

    if len(found) == 1:
        return found[0]
    names = found[0].ledger
    return Explanation(
        torch.cat([one.heatmap for one in found]),
        torch.cat([one.score for one in found]),
        {name: torch.cat([one.ledger[name] for one in found]) for name in names},
    )


def check_parameters(method: str, parameters: dict[str, Any]) -> None:
    """Raise InputError for what a recipe cannot say of a method.

    That is a method or parameter that does not exist, a value of another kind, and
    :data:`CONTEXT`, which describes images and run.
    """
    from models.errors import InputError

    _explainer(method, parameters)
    for name in sorted(set(parameters) & set(CONTEXT)):
        raise InputError(f"{method}: '{name}' is set by the run, not by a recipe")


def defaults(method: str) -> dict[str, Any]:
    """Parameters of a method and their default values, less :data:`CONTEXT`."""
    parameters = signature(_explainer(method, {})).parameters
    return {
        name: one.default
        for name, one in parameters.items()
        if one.kind is Parameter.KEYWORD_ONLY and name not in CONTEXT
    }


def context(method: str) -> set[str]:
    """Which of :data:`CONTEXT` a method takes."""
    return set(_names(_explainer(method, {}))) & set(CONTEXT)


def _names(explainer: Callable[..., Explanation]) -> list[str]:
    parameters = signature(explainer).parameters.values()
    return [one.name for one in parameters if one.kind is Parameter.KEYWORD_ONLY]


def _explainer(method: str, parameters: dict[str, Any]) -> Callable[..., Explanation]:
    from models.errors import InputError

    if method not in METHODS:
        raise InputError(f"no attribution '{method}'; choose one of: {', '.join(METHODS)}")
    module, name = METHODS[method]
    explainer: Callable[..., Explanation] = getattr(import_module(module), name)
    known = _names(explainer)
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise InputError(
            f"{method} has no parameter '{unknown[0]}'; it has: {', '.join(known) or 'none'}"
        )
    taken = signature(explainer).parameters
    for name, value in parameters.items():
        if name not in CONTEXT:
            check_value(method, taken[name], value)
    return explainer


def check_value(owner: str, parameter: Parameter, value: Any) -> None:
    """Raise InputError for a value of another kind than a parameter is annotated with."""
    from models.errors import InputError

    annotation = parameter.annotation
    kinds = tuple(get_origin(kind) or kind for kind in get_args(annotation) or (annotation,))
    if get_origin(annotation) is not None and not isinstance(annotation, UnionType):
        kinds = (get_origin(annotation),)
    taken = (*kinds, int) if float in kinds else kinds
    text = isinstance(value, str) and str not in kinds
    fits = isinstance(value, taken) and not text and (not isinstance(value, bool) or bool in kinds)
    if not fits or (isinstance(value, float) and not isfinite(value)):
        names = " or ".join(
            {"NoneType": "none", "str": "text", "int": "whole number", "float": "number"}.get(
                kind.__name__, kind.__name__.lower()
            )
            for kind in kinds
        )
        raise InputError(f"{owner}: {parameter.name} is a {names}, not {value!r}")
