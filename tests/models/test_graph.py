"""Networks read as steps: the steps do what the network does, and what cannot be read is named."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.attribution import graph
from models.attribution.graph import IMAGE, Add, Concatenate, Mean, read, without_normaliser
from models.errors import InputError
from models.networks import build


class Calls(nn.Module):
    """A network that is what a function says, with two layers to call."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(2 * 4 * 6, 3)
        self.shift = nn.Parameter(torch.ones(1))
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def shown(shape=(3, 2, 4, 6)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def calls(function):
    torch.manual_seed(0)
    model = Calls(function).double().eval()
    model.norm.running_mean.normal_()
    return model


def overwritten_by_module(m, x):
    x = m.conv(x)
    return m.relu(x) + x  # x is what relu left of it


def overwritten_by_function(m, x):
    x = m.conv(x)
    y = F.relu(x, inplace=True)
    return torch.cat([x, y], 1)


def overwritten_by_method(m, x):
    x = m.conv(x)
    x.relu_()
    return x + x


def overwritten_by_sum(m, x):
    y = z = m.conv(x)
    y += x
    return torch.cat([y, z], 1)


READABLE = {
    "functions": lambda m, x: F.max_pool2d(torch.relu(m.conv(x)), 2, stride=1),
    "dropout": lambda m, x: F.dropout(m.conv(x), 0.5, m.training),
    "flatten by size": lambda m, x: m.head(m.conv(x).view(x.size(0), -1)),
    "flatten by shape": lambda m, x: m.head(m.conv(x).reshape(x.shape[0], -1)),
    "flatten by size()[0]": lambda m, x: m.head(m.conv(x).view(x.size()[0], 2 * 4 * 6)),
    "flatten": lambda m, x: m.head(torch.flatten(m.conv(x), 1)),
    "flatten by name": lambda m, x: m.head(m.conv(x).flatten(start_dim=1)),
    "axes moved": lambda m, x: m.conv(x).permute(0, 1, 3, 2).transpose(1, 2).unsqueeze(1),
    "axis left out": lambda m, x: m.conv(x).unsqueeze(2).squeeze(2),
    "mean": lambda m, x: m.conv(x).mean((2, 3), keepdim=True),
    "mean by name": lambda m, x: torch.mean(m.conv(x), dim=[2, 3]),
    "adaptive": lambda m, x: F.adaptive_avg_pool2d(m.conv(x), (2, 3)).sigmoid(),
    "average": lambda m, x: F.avg_pool2d(m.conv(x), 3, padding=1, count_include_pad=False),
    "twice the same": lambda m, x: m.conv(x) + m.conv(m.conv(x)),
    "x + x": lambda m, x: torch.add(x, x),
    "concatenation": lambda m, x: torch.cat((x, m.conv(x), x), dim=-1),
    "activations": lambda m, x: F.elu(F.leaky_relu(F.gelu(m.conv(x)), 0.3), alpha=0.5).tanh(),
    "softmax in the middle": lambda m, x: m.conv(x.softmax(1)),
    "not needed": lambda m, x: (m.norm(x), m.conv(x))[1],
    "overwritten by a module": overwritten_by_module,
    "overwritten by a function": overwritten_by_function,
    "overwritten by a method": overwritten_by_method,
    "overwritten by a sum": overwritten_by_sum,
}


@pytest.mark.parametrize("name", READABLE)
def test_the_steps_do_what_the_network_does(name):
    model, image = calls(READABLE[name]), shown()
    graph = read(model)
    assert torch.equal(graph.run(image), model(image.clone()))
    assert torch.equal(image, shown())
    assert torch.equal(graph.run(image[:1]), model(image[:1].clone()))  # another batch size


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("demo", (22, 22, 22), {}),
        ("nazari2021", (4, 4, 4), {"outputs": 1}),
        ("diktiometry", (16, 16, 16), {"channels": 6}),
        ("resnet3d", (16, 16, 16), {}),
    ],
)
def test_published_networks_are_read(name, shape, options):
    model = build(name, shape, **options).eval()
    image = torch.randn(2, options.get("channels", 1), *shape)
    graph = read(model)
    assert torch.equal(graph.run(image), model(image))
    own = {id(module) for module in model.modules()}
    assert {id(s.module) for s in graph.steps if list(s.module.parameters())} <= own


def courses(m, x):
    return m.conv(x) if x.sum() > 0 else x


UNREADABLE = {
    "the data decide": (courses, "cannot be read as a list of layers"),
    "unknown function": (lambda m, x: torch.cos(m.conv(x)), r"calls 'cos' .*register"),
    "unknown method": (lambda m, x: m.conv(x).cumsum(1), "calls 'cumsum'"),
    "a product": (lambda m, x: m.conv(x) * x, "calls 'mul'"),
    "a number added": (lambda m, x: m.conv(x) + 1, "only two results of the network"),
    "a parameter added": (lambda m, x: m.conv(x) + m.shift, "calls 'shift'"),
    "a weighted sum": (lambda m, x: torch.add(m.conv(x), x, alpha=2), "only two results"),
    "a size computed": (lambda m, x: x.view(x.size(0), x.size(1) * 4, 6), "calls 'size'"),
    "two results": (lambda m, x: (x, m.conv(x)), "one result, a tensor of scores"),
    "mean of everything": (lambda m, x: m.conv(x).mean(), "a mean needs axes"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named(name):
    function, message = UNREADABLE[name]
    with pytest.raises(InputError, match=message):
        read(calls(function))


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


def test_networks_of_two_inputs_are_refused():
    with pytest.raises(InputError, match="one input is needed"):
        read(TwoInputs())


def test_steps_know_who_takes_their_result():
    graph = read(calls(lambda m, x: torch.cat([m.norm(x) + m.conv(x), x], 1)))
    assert [type(step.module) for step in graph.steps] == [
        nn.BatchNorm2d,
        nn.Conv2d,
        Add,
        Concatenate,
    ]
    assert [step.inputs for step in graph.steps] == [(IMAGE,), (IMAGE,), (0, 1), (2, IMAGE)]
    assert graph.consumers() == [[2], [2], [3], []]
    assert graph.last_uses() == [2, 2, 3, 3]
    assert [step.name for step in graph.steps][:2] == ["norm", "conv"]


def test_a_substitute_runs_in_the_place_of_every_module():
    model, image = calls(lambda m, x: m.conv(x).mean((2, 3))), shown()
    seen = []

    def substitute(module):
        seen.append(type(module))
        return torch.abs if isinstance(module, Mean) else module

    assert torch.equal(read(model).run(image, substitute), model.conv(image).abs())
    assert seen == [nn.Conv2d, Mean]


def test_leaves_are_taken_whole(monkeypatch):
    model = nn.Sequential(calls(READABLE["functions"]), nn.Flatten())
    monkeypatch.setattr(graph, "LEAVES", {Calls})
    assert [type(s.module) for s in read(model).steps] == [Calls, nn.Flatten]
    assert [type(s.module) for s in read(nn.Linear(2, 2)).steps] == [nn.Linear]


@pytest.mark.parametrize(
    ("end", "left"),
    [
        ([nn.Softmax(1)], 2),
        ([nn.LogSoftmax(1)], 2),
        ([nn.Sigmoid()], 2),
        ([nn.ReLU()], 3),
        ([nn.Sigmoid(), nn.Linear(2, 2)], 4),
    ],
)
def test_a_softmax_or_sigmoid_at_the_end_is_left_out(end, left):
    graph = read(nn.Sequential(nn.Flatten(), nn.Linear(3, 2), *end))
    assert without_normaliser(graph).steps == graph.steps[:left]
    function = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    assert len(without_normaliser(read(function)).steps) == 2
