"""A user's Python file as a network: what works, and what each mistake is answered with."""

import pytest
import torch
from torch import nn

from models.errors import InputError
from models.networks import own

SHAPE = (8, 9, 8)
GOOD = """\
from math import prod

from torch import nn


def build(shape, *, channels=1, outputs=2, width=3):
    return nn.Sequential(
        nn.Conv3d(channels, width, 3, padding=1),
        nn.BatchNorm3d(width),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(width * prod(shape), outputs),
    )
"""


def test_a_file_makes_a_network_with_its_options():
    network = own.build(GOOD, "mynet.py", SHAPE, width=5, outputs=1, channels=2)
    assert network.training
    assert network[0].out_channels == 5
    assert network(torch.zeros(3, 2, *SHAPE)).shape == (3, 1)


def test_trying_it_changes_nothing():
    torch.manual_seed(3)
    network = own.build(GOOD, "mynet.py", SHAPE)
    drawn = torch.rand(1)
    assert torch.equal(network[1].running_mean, torch.zeros(3))
    torch.manual_seed(3)
    namespace = {}
    exec(GOOD, namespace)
    plain = namespace["build"](SHAPE)
    assert torch.equal(network[0].weight, plain[0].weight)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def make(shape): pass", "mynet.py: defines no function build"),
        ("build = 3", "mynet.py: defines no function build"),
        ("def build(shape:\n", "mynet.py, line 1: not valid Python"),
        ("import nowhere_to_be_found", "line 1: the file fails with ModuleNotFoundError.*one file"),
        ("\nraise OSError('no')", "line 2: the file fails with OSError: no"),
        ("def build(shape, **o):\n  return 7", "build returns int, not a torch.nn.Module"),
        (
            "def build(shape, **o):\n  x = 0\n  return 1 / x",
            "line 3: build fails with ZeroDivision",
        ),
        ("def build(shape): return 1", "build fails with TypeError.*outputs"),
        (GOOD.replace("width * prod(shape)", "7"), "mynet.py: the network fails with RuntimeError"),
        (GOOD.replace(", outputs)", ", 3)"), r"makes \(1, 3\) of an image .*must be \(1, 2\)"),
        (
            "from torch import nn\nclass A(nn.Module):\n  def forward(self, x): return [x]\n"
            "def build(shape, **o): return A()",
            "makes list of an image",
        ),
        (
            "from torch import nn\nclass A(nn.Module):\n  def forward(self, x):\n"
            "    raise KeyError(1)\ndef build(shape, **o): return A()",
            "line 4: the network fails with KeyError",
        ),
        (
            "from models.errors import InputError\ndef build(shape, **o):\n"
            "  raise InputError('give 9 voxels')",
            "mynet.py: give 9 voxels",
        ),
    ],
)
def test_every_mistake_is_a_sentence_that_names_the_file(source, words):
    assert source != GOOD  # every replacement above has replaced something
    with pytest.raises(InputError, match=words):
        own.build(source, "mynet.py", SHAPE, outputs=2)


def test_a_dataclass_and_a_class_in_the_file_work():
    source = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Plan:\n  width: int = 2\n"
        "class Net(nn.Module):\n  def __init__(self, outputs):\n    super().__init__()\n"
        "    self.fc = nn.Linear(Plan().width, outputs)\n"
        "  def forward(self, x): return self.fc(x.flatten(1)[:, :2])\n"
        "def build(shape, *, channels=1, outputs=2): return Net(outputs)\n"
    )
    network = own.build(source, "mynet.py", SHAPE)
    assert isinstance(network, nn.Module)
    assert network(torch.zeros(2, 1, *SHAPE)).shape == (2, 2)
