"""Gradient methods against plain autograd, in time and in memory.

``python benchmarks/gradient_rows.py [--quick] [--json FILE]``; 2 threads, one image.

Time: the peer is the score's gradient by torch.autograd on the network as it is. Integrated
gradients and SmoothGrad are the whole call, with the forward passes for the scores (2 and 1),
divided by the number of gradients in it: 8, in the quick run 2. All take turns in one process;
medians.

Memory: what a process needs on top of the network and the image, at its peak (Linux: VmHWM), each
in a process of its own. The peer is a training step without an optimiser's state: forward in
training mode, backward with the gradients of all weights.
"""

from collections.abc import Callable
from functools import partial

import torch
from memory import peak_megabytes
from rows import Row, alternate, parser, report
from torch import nn

from models.attribution import attribute
from models.networks import build

# name, network, shape, channels
NETWORKS = (
    ("boehle2019 2 mm", "boehle2019", (96, 114, 96), 1),
    ("eitel2019", "eitel2019", (96, 114, 96), 1),
    ("boehle2019 1 mm", "boehle2019", (193, 229, 193), 1),
    ("nazari2021", "nazari2021", (71, 90, 72), 1),
    ("diktiometry", "diktiometry", (96, 112, 96), 6),
)
QUICK = 2
QUICK_MEMORY = ("saliency",)
FULL_MEMORY = ("saliency", "guided_grad_cam", "integrated_gradients")
# method -> largest share of one plain gradient's time
TARGETS = {
    "saliency": 1.1,
    "input_x_gradient": 1.1,
    "guided_backprop": 1.2,
    "grad_cam": 1.1,
    "guided_grad_cam": 1.6,
    "integrated_gradients": 1.1,
    "smoothgrad": 1.1,
}
MANY = {"integrated_gradients": "steps", "smoothgrad": "samples"}


def rows(quick: bool) -> list[Row]:
    """Rows of all methods and networks."""
    torch.set_num_threads(2)
    networks = NETWORKS[:QUICK] if quick else NETWORKS
    gradients = 2 if quick else 8
    made = [row for network in networks for row in time_rows(*network, gradients, quick)]
    methods = QUICK_MEMORY if quick else FULL_MEMORY
    measured = networks[:1] if quick else networks
    return made + [row for one in measured for row in memory_rows(*one, gradients, methods)]


def time_rows(
    label: str, name: str, shape: tuple[int, ...], channels: int, gradients: int, quick: bool
) -> list[Row]:
    """Seconds per gradient."""
    model, volume = network_and_image(name, shape, channels)
    functions: dict[str, Callable[[], object]] = {"autograd": partial(autograd, model, volume)}
    for method in TARGETS:
        functions[method] = partial(call, method, model, volume, gradients)
    alternate(functions if not quick else {"autograd": functions["autograd"]}, 1)
    seconds = alternate(functions, 2 if quick else 3)
    return [
        Row(
            f"{label}: {method}",
            seconds[method] / (gradients if method in MANY else 1),
            seconds["autograd"],
            "autograd",
            "s",
            target,
        )
        for method, target in TARGETS.items()
    ]


def memory_rows(
    label: str,
    name: str,
    shape: tuple[int, ...],
    channels: int,
    gradients: int,
    methods: tuple[str, ...],
) -> list[Row]:
    """Megabytes at the peak."""
    needed = {
        task: peak_megabytes(prepare, task, name, shape, channels, gradients)
        for task in ("training step", *methods)
    }
    peer = needed.pop("training step")
    return [
        Row(f"{label}: {method}, peak memory", own, peer, "training step", "MB", 1.0)
        for method, own in needed.items()
    ]


def network_and_image(
    name: str, shape: tuple[int, ...], channels: int
) -> tuple[nn.Module, torch.Tensor]:
    """A network with random weights, and noise in a box on a black background."""
    torch.manual_seed(0)
    model = build(name, shape, channels=channels).eval()
    volume = torch.zeros(1, channels, *shape)
    inside = [slice(n // 8, n - n // 8) for n in shape]
    volume[:, :, inside[0], inside[1], inside[2]] = torch.rand(
        1, channels, *(one.stop - one.start for one in inside)
    )
    return model, volume


def autograd(model: nn.Module, volume: torch.Tensor) -> torch.Tensor:
    """Plain gradient of class 1."""
    inputs = volume.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model(inputs)[:, 1].sum(), inputs)
    return gradient


def training_step(model: nn.Module, volume: torch.Tensor) -> None:
    """Forward and backward as in training, batch of one."""
    # BatchNorm cannot train on one value per channel, so that the smallest maps have to be frozen.
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
    nn.functional.cross_entropy(model(volume), torch.ones(1, dtype=torch.long)).backward()


def call(method: str, model: nn.Module, volume: torch.Tensor, gradients: int) -> object:
    """A method as a user calls it."""
    many = {MANY[method]: gradients} if method in MANY else {}
    return attribute(model, volume, method=method, **many)


def prepare(
    task: str, name: str, shape: tuple[int, ...], channels: int, gradients: int
) -> Callable[[], object]:
    """A task, ready to be measured."""
    torch.set_num_threads(2)
    model, volume = network_and_image(name, shape, channels)
    _small_gradient()  # what torch loads at its first backward is nobody's fault
    if task == "training step":
        return partial(training_step, model, volume)
    return partial(call, task, model, volume, gradients)


def _small_gradient() -> None:
    model, volume = network_and_image("demo", (22, 22, 22), 1)
    autograd(model, volume)
    for method in ("saliency", "guided_grad_cam", "smoothgrad"):
        call(method, model, volume, 1)


if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    report(rows(arguments.quick), arguments.json)
