"""Layer-wise relevance propagation against zennit and against one plain gradient.

``python benchmarks/relevance_rows.py [--quick] [--json FILE]``; 2 threads, one image.

The composites are zennit's own (epsilon on fully connected layers; z+, alpha 2 beta 1, or the
latter with a flat first layer on convolutions), at its defaults, and ours of the same names.
Alpha-beta everywhere is the method ``lrp_alpha_beta`` with beta 1. All take turns in one process;
medians. Peak memory on top of network and image, each in a process of its own.
"""

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
from gradient_rows import NETWORKS, QUICK, autograd, network_and_image
from memory import peak_megabytes
from rows import Row, alternate, parser, report
from torch import nn

from models.attribution import attribute

COMPOSITES = {
    "epsilon_plus": "EpsilonPlus",
    "epsilon_alpha2_beta1": "EpsilonAlpha2Beta1",
    "epsilon_alpha2_beta1_flat": "EpsilonAlpha2Beta1Flat",
}
HEAVIEST = "epsilon_alpha2_beta1"
UNPOOLED = ("nazari2021",)


def rows(quick: bool) -> list[Row]:
    """Rows of all networks."""
    torch.set_num_threads(2)
    networks = NETWORKS[:QUICK] if quick else NETWORKS
    made = [row for network in networks for row in time_rows(*network, quick)]
    measured = () if quick else networks
    return made + [row for one in measured for row in memory_rows(*one, HEAVIEST)]


def time_rows(
    label: str, name: str, shape: tuple[int, ...], channels: int, quick: bool
) -> list[Row]:
    """Seconds per map."""
    model, volume = network_and_image(name, shape, channels)
    functions: dict[str, Callable[[], object]] = {
        "autograd": partial(autograd, model, volume),
        "lrp_alpha_beta": partial(attribute, model, volume, method="lrp_alpha_beta", beta=1.0),
    }
    for preset in COMPOSITES:
        functions[preset] = partial(ours, model, volume, preset)
        functions[f"zennit {preset}"] = partial(zennits, model, volume, preset)
    alternate(functions, 1)
    seconds = alternate(functions, 1 if quick else 3)
    unpooled = name in UNPOOLED
    against_zennit = [
        Row(
            f"{label}: {preset}",
            seconds[preset],
            seconds[f"zennit {preset}"],
            "zennit",
            "s",
            0.5 if unpooled else 0.33,
        )
        for preset in COMPOSITES
    ]
    return against_zennit + [
        Row(f"{label}: {one}", seconds[one], seconds["autograd"], "autograd", "s", 2.0 + unpooled)
        for one in ("epsilon_alpha2_beta1", "lrp_alpha_beta")
    ]


def memory_rows(
    label: str, name: str, shape: tuple[int, ...], channels: int, preset: str
) -> list[Row]:
    """Megabytes at the peak."""
    own, peer = (
        peak_megabytes(prepare, function, name, shape, channels, preset)
        for function in (ours, zennits)
    )
    return [Row(f"{label}: {preset}, peak memory", own, peer, "zennit", "MB", 0.7)]


def ours(model: nn.Module, volume: torch.Tensor, preset: str) -> object:
    """Our composite."""
    return attribute(model, volume, method="lrp_composite", preset=preset)


def zennits(model: nn.Module, volume: torch.Tensor, preset: str) -> object:
    """Zennit's composite of the same rules, BatchNorm merged."""
    stand_in_for_torchvision()
    from zennit import composites
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm

    composite = getattr(composites, COMPOSITES[preset])(canonizers=[SequentialMergeBatchNorm()])
    with Gradient(model=model, composite=composite) as explain:
        return explain(volume, torch.eye(2)[[1]])


def stand_in_for_torchvision() -> None:
    """Zennit imports torchvision for what is not used here; its wheel would bring CUDA."""
    if "torchvision" in sys.modules:
        return
    names = ("torchvision", "torchvision.models", "torchvision.models.resnet")
    made = {name: sys.modules.setdefault(name, ModuleType(name)) for name in names}
    for name in ("Bottleneck", "BasicBlock"):
        setattr(made["torchvision.models.resnet"], name, type(name, (nn.Module,), {}))
    for name in ("vgg11", "vgg11_bn"):
        setattr(made["torchvision.models"], name, None)


def prepare(
    function: Callable[..., object], name: str, shape: tuple[int, ...], channels: int, preset: str
) -> Callable[[], object]:
    """A composite, ready to be measured."""
    torch.set_num_threads(2)
    function(*network_and_image("demo", (22, 22, 22), 1), preset)  # what it loads at first
    model, volume = network_and_image(name, shape, channels)
    return partial(function, model, volume, preset)


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    report(rows(arguments.quick), arguments.json)
