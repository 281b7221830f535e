"""Memory and time of the network of Nazari 2021 at full size: inference, LRP, a training step.

Each in a process of its own, since memory is its peak::

    python -m benchmarks.nazari2021 inference|lrp|step [--device cuda]
"""

import argparse
import resource
import sys
from collections.abc import Callable
from time import perf_counter, process_time

import torch
from torch import nn

from models.attribution import attribute
from models.networks import build

SHAPE, BATCH = (71, 90, 72), 8


def inference(network: nn.Module, device: str) -> None:
    """One image."""
    with torch.no_grad():
        network.eval()(torch.rand(1, 1, *SHAPE, device=device))


def lrp(network: nn.Module, device: str) -> None:
    """One heatmap by the composite of the publication."""
    attribute(network, torch.rand(1, 1, *SHAPE), method="lrp_composite", start="logit")


def step(network: nn.Module, device: str) -> None:
    """One update by Adam on a batch of eight."""
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    volumes = torch.rand(BATCH, 1, *SHAPE, device=device)
    targets = torch.arange(BATCH, device=device) % 2
    nn.functional.cross_entropy(network(volumes), targets).backward()
    optimiser.step()


WORK: dict[str, Callable[[nn.Module, str], None]] = {
    "inference": inference,
    "lrp": lrp,
    "step": step,
}


def main() -> None:
    """Print seconds, those of the processor alone, and the peak of memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=WORK)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = build("nazari2021", SHAPE).to(options.device)
    began, computed = perf_counter(), process_time()
    WORK[options.what](network, options.device)
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds, own = perf_counter() - began, process_time() - computed
    sys.stdout.write(
        f"{options.what} on {options.device}: {seconds:.1f} s ({own:.1f} s of processor time), "
        f"{peak:.2f} GiB\n"
    )


if __name__ == "__main__":
    main()
