"""A batch in parts, in other numbers, in too little memory, and over several processes."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_loop import TRAIN, fit, network, same_state, untimed
from torch import nn

from models.errors import InputError
from models.networks import NETWORKS, build
from models.training.augmentation import Augmentation
from models.training.batches import batches, reading
from models.training.precision import Precision
from models.training.ranks import Ranks
from models.training.update import is_out_of_memory

ROOT = Path(__file__).parents[2]
ALL = Augmentation(
    gamma=0.3, noise_sd=0.05, flip_probability=0.5, rotation_degrees=10, shift_voxels=1
)


def plain(seed=0):
    """A network without BatchNorm and dropout: parts change nothing but rounding."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.ELU(), nn.MaxPool3d(2), nn.Flatten(),
                         nn.Linear(32, 2))  # fmt: skip


def close(one, other, atol=1e-6):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.allclose(one[name], other[name], atol=atol) for name in one)


# --- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 8])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_parts_make_the_same_update(parts, class_weights):
    options = {"batch_size": 8, "epochs": 3, "augmentation": ALL, "train_rows": TRAIN[:15]}
    whole, expected = fit(plain(), class_weights=class_weights, **options)
    divided, history = fit(plain(), class_weights=class_weights, accumulate=parts, **options)
    assert close(whole, divided, atol=1e-5)
    assert history[-1]["train_loss"] == pytest.approx(expected[-1]["train_loss"], rel=1e-4)


def test_a_part_is_all_that_the_network_sees_at_a_time():
    model, seen = plain(), []
    model.register_forward_pre_hook(
        lambda module, given: seen.append(len(given[0])) if module.training else None
    )
    fit(model, batch_size=8, accumulate=4, epochs=1, validation_rows=[], select="last")
    assert seen == [2] * 8


class Small(nn.Sequential):
    """A network on a device whose memory takes ``fits`` images."""

    fits = 3
    tries = 0

    def forward(self, images):
        if self.training and len(images) > self.fits:
            self.tries += 1
            super().forward(images)  # part of the work is done, and BatchNorm has counted
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.2 GiB")
        return super().forward(images)


def test_out_of_memory_divides_the_batch_and_says_it_once(caplog):
    options = {"batch_size": 8, "epochs": 3, "augmentation": ALL}
    small = Small(*network(dropout=0.0))
    with caplog.at_level(logging.WARNING, "brainwhy.training"):
        small, history = fit(small, **options)
    assert small.tries == 2  # 8, then 4; 2 fits
    assert [one.message for one in caplog.records] == [
        "a batch of 8 images does not fit into the memory of cpu: it is computed in 4 parts, with "
        "the same updates"
    ]
    divided, expected = fit(network(dropout=0.0), accumulate=4, **options)
    assert same_state(small, divided)  # as if it had been asked for, BatchNorm's counts included
    assert untimed(history) == untimed(expected)


def test_an_image_that_does_not_fit_alone_is_an_input_error():
    model = Small(*plain())
    model.fits = 0
    with pytest.raises(InputError, match="out of memory with a single image: take a coarser"):
        fit(model, batch_size=4)


def test_other_errors_are_not_taken_for_memory():
    class Broken(nn.Sequential):
        def forward(self, images):
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        fit(Broken(*plain()))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("no kernel"))


# --- reading -------------------------------------------------------------------------------------


def test_batches_come_in_order_and_one_is_read_ahead():
    volumes, reads = np.arange(12, dtype=np.float16).reshape(12, 1), []

    class Watched:
        def __getitem__(self, row):
            reads.append(row)
            return volumes[row]

    cut = batches(list(range(11, -1, -1)), 3)
    for number, (rows, images) in enumerate(reading(Watched(), cut), start=1):
        assert images[:, 0].tolist() == rows == cut[number - 1]
        deadline = time.monotonic() + 5
        while len(reads) < min(3 * (number + 1), 12) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(reads) == min(3 * (number + 1), 12)
    assert list(reading(volumes, [])) == []


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("n", range(2, 20))
def test_shares_of_a_batch_are_everybodys_and_none_is_empty(size, n):
    if n < size:
        return
    for asked in (1, 2, 5):
        shares = [Ranks(rank, size).parts(n, asked) for rank in range(size)]
        assert len({len(parts) for parts in shares}) == 1
        flat = [row for parts in shares for part in parts for row in part]
        assert sorted(flat) == list(range(n))
        assert all(part for parts in shares for part in parts)


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["bf16", "fp16"])
def test_mixed_precision_learns_as_float32_does_and_leaves_float32(wanted):
    if wanted == "fp16":
        try:
            with torch.autocast("cpu", torch.float16):
                nn.Conv3d(1, 1, 3)(torch.zeros(1, 1, 4, 4, 4)).sum().backward()
        except RuntimeError as error:
            pytest.skip(f"this torch has no float16 convolution on the CPU: {error}")
    options = {"epochs": 6, "batch_size": 8, "select": "last"}
    exact, expected = fit(plain(), precision="float32", **options)
    mixed, history = fit(plain(), precision=wanted, **options)
    assert all(weight.dtype is torch.float32 for weight in mixed.parameters())
    assert not same_state(exact, mixed)
    assert history[-1]["train_loss"] == pytest.approx(expected[-1]["train_loss"], rel=0.1)


def test_auto_is_float32_but_on_cuda(monkeypatch):
    found = Precision.of("auto", "auto", "cpu")
    assert (found.dtype, found.channels_last) == (torch.float32, True)
    capability = {"cuda:0": (9, 0), "cuda:1": (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability.get)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: (device, enabled))
    for device, dtype, scaled in (
        ("cuda:0", torch.bfloat16, False),
        ("cuda:1", torch.float16, True),
    ):
        found = Precision.of("auto", "auto", device)
        assert (found.dtype, found.device, found.channels_last) == (dtype, "cuda", True)
        assert found.scaler == ("cuda", scaled)
        assert not Precision.of("auto", "contiguous", device).channels_last
        assert not Precision.of("float32", "auto", device).channels_last


def test_fp16_scales_its_gradients_and_keeps_the_scale_in_the_checkpoint():
    precision = Precision(torch.float16, "cpu")
    weight = nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    precision.backward((weight * 1e-8).sum())
    assert weight.grad.item() == pytest.approx(1e-8 * 65536)
    precision.step(optimiser)
    assert weight.item() == pytest.approx(1 - 1e-8)
    precision.backward((weight * torch.inf).sum())
    precision.step(optimiser)  # left out
    assert weight.isfinite().all()
    state = precision.state_dict()
    assert state["scale"] == 65536 / 2
    again = Precision(torch.float16, "cpu")
    again.load_state_dict(state)
    assert again.state_dict() == state
    Precision().load_state_dict(state)  # a fold that goes on in float32 needs none
    again.load_state_dict({})
    assert again.state_dict() == state


def test_channels_last_changes_nothing_but_rounding():
    options = {"batch_size": 8, "epochs": 3, "augmentation": ALL}
    usual, _ = fit(plain(), memory_format="contiguous", **options)
    last, _ = fit(plain(), memory_format="channels_last", **options)
    assert close(usual, last, atol=1e-5)
    assert last[0].weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_network_that_views_its_maps_is_left_contiguous():
    class Viewing(nn.Sequential):
        def forward(self, images):
            maps = self[0](images)
            return self[1](maps.view(len(maps), -1))

    viewing, _ = fit(Viewing(nn.Conv3d(1, 4, 3), nn.Linear(256, 2)), epochs=2)
    assert viewing[0].weight.is_contiguous()
    asked = {"memory_format": "channels_last", "epochs": 1}
    with pytest.raises(RuntimeError, match="view"):
        fit(Viewing(nn.Conv3d(1, 4, 3), nn.Linear(256, 2)), **asked)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_channels_last(name):
    shape = {"nazari2021": (20, 20, 20), "liu2018": (126, 114, 150)}.get(name, (96, 114, 96))
    model, image = build(name, shape), torch.zeros(2, 1, *shape)
    precision = Precision(channels_last=True)
    with torch.no_grad():
        scores = precision.place(model.eval())(precision.place(image))
    assert scores.shape == (2, 2)


def test_compiled_networks_train_the_same_weights(monkeypatch):
    calls = []

    def compile_(module):
        calls.append(module)
        return lambda images: module(images)

    monkeypatch.setattr(torch, "compile", compile_)
    compiled, _ = fit(plain(), compile=True, epochs=2)
    assert len(calls) == 1
    assert same_state(compiled, fit(plain(), epochs=2)[0])


# --- killed --------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
import torch
from test_loop import cohort, fit, network
from test_update import ALL
slow, out, checkpoint = sys.argv[1] == "slow", Path(sys.argv[2]), Path(sys.argv[3])
volumes, labels = cohort()

class Slow:
    reads = 0
    def __getitem__(self, row):
        self.reads += 1
        if slow and self.reads > 3 * 24 + 9:  # amid the fourth epoch: wait to be killed
            out.with_suffix(".here").touch()
            time.sleep(60)
        return volumes[row]

model, history = fit(
    network(), (Slow(), labels), checkpoint=checkpoint, epochs=6, augmentation=ALL, batch_size=8,
    accumulate=2, schedule="inverse", decay=0.01, class_weights="balanced", label_smoothing=0.1,
    select="validation_auc", stop="validation_loss", patience=5, ignore_epochs=1, seed=3,
    weight_decay_layers=("0",),
)
torch.save(model.state_dict(), out)
"""


def test_a_fold_killed_amid_an_epoch_goes_on_to_the_same_bits(tmp_path):
    script = tmp_path / "fold.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), root=str(ROOT)))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(pace, out, checkpoint):
        arguments = [sys.executable, script, pace, tmp_path / out, tmp_path / checkpoint]
        return subprocess.Popen(list(map(str, arguments)), env=environment)

    whole = start("fast", "whole", "a.pt")
    killed = start("slow", "killed", "b.pt")
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed.here").exists() and time.monotonic() < deadline:
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    saved = torch.load(tmp_path / "b.pt", weights_only=True)
    assert len(saved["state"]["history"]) == 3
    assert start("fast", "killed", "b.pt").wait() == 0
    assert whole.wait() == 0
    one, other = (torch.load(tmp_path / name, weights_only=True) for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- several processes ---------------------------------------------------------------------------

TOGETHER = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
import torch
from test_loop import TRAIN, fit
from test_update import ALL, plain
from models.training.ranks import Ranks, joined
with joined(["cpu", "cpu"]) as device:
    rank = Ranks.here().rank
    model, history = fit(
        plain(seed=rank), epochs=4, batch_size=7, accumulate=2, augmentation=ALL,
        class_weights="balanced", train_rows=TRAIN[:15], patience=2,
        checkpoint=Path(sys.argv[1]) / "fold.pt",
    )
    torch.save([model.state_dict(), history], Path(sys.argv[1]) / f"{{rank}}.pt")
"""


def test_two_processes_train_the_weights_of_one(tmp_path):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER.format(tests=str(Path(__file__).parent), root=str(ROOT)))
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), str(tmp_path)],
        check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    (first, told), (second, _) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)
    )
    alone, history = fit(
        plain(), epochs=4, batch_size=7, accumulate=2, augmentation=ALL,
        class_weights="balanced", train_rows=TRAIN[:15], patience=2,
    )  # fmt: skip
    for name, value in alone.state_dict().items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(value, first[name], atol=1e-5), name
    for mine, theirs in zip(history, told, strict=True):
        assert theirs["train_loss"] == pytest.approx(mine["train_loss"], rel=1e-4)
        assert theirs["validation_loss"] == pytest.approx(mine["validation_loss"], rel=1e-4)


def test_a_process_of_several_cannot_divide_on_the_way():
    from models.training.objective import Objective
    from models.training.update import Update

    model = Small(*plain())
    update = Update(
        model=model, network=model, optimiser=torch.optim.Adam(model.parameters()),
        objective=Objective(), augmentation=Augmentation(), precision=Precision(),
        ranks=Ranks(0, 2), device="cpu",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"2 processes cannot divide .* raise .*accumulate"):
        update._divide(8, "CUDA out of memory")


def test_one_process_needs_no_wrapping():
    model = network()
    assert Ranks.here() == Ranks(0, 1)
    assert Ranks().wrap(model, "cpu") is model
