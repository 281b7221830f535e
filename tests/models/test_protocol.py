"""Schedules, selection and stopping, and the loss, against what the papers write."""

from math import nan

import numpy as np
import pytest
import torch
from torch import nn

from models.errors import InputError
from models.training.evaluation import evaluate
from models.training.history import best_epoch, is_over, summary
from models.training.objective import Objective, log_odds, probability
from models.training.optimiser import adam, layers
from models.training.protocol import METRICS, Protocol
from models.training.schedule import schedule

# --- the learning rate ---------------------------------------------------------------------------


def rates(epochs, updates_per_epoch, **options):
    """Learning rate of every update, one list per epoch."""
    weight = nn.Parameter(torch.zeros(1))
    protocol = Protocol(epochs=epochs, **options)
    optimiser = torch.optim.Adam([weight], lr=protocol.learning_rate)
    scheduler, found = schedule(optimiser, protocol, updates_per_epoch), []
    for _ in range(epochs * updates_per_epoch):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return np.reshape(found, (epochs, updates_per_epoch))


def test_constant_is_constant():
    assert (rates(5, 3, learning_rate=0.01) == 0.01).all()


def test_step_decay_of_estudillo_romero_2022():
    found = rates(160, 3, learning_rate=1e-5, schedule="step", decay=0.96, decay_every=50)
    for epoch in range(1, 161):
        expected = 1e-5 * 0.96 ** ((epoch - 1) // 50)
        assert found[epoch - 1] == pytest.approx(expected, rel=1e-12)
    assert found[0, 0] == 1e-5
    assert found[-1, -1] == pytest.approx(1e-5 * 0.96**3)


def test_inverse_decay_of_eitel_2019():
    found = rates(20, 7, learning_rate=5e-4, schedule="inverse", decay=0.002).ravel()
    expected = [5e-4 / (1 + 0.002 * update) for update in range(140)]
    assert found == pytest.approx(expected, rel=1e-12)


# --- which epoch, and when to stop ---------------------------------------------------------------


def history(losses, accuracies=None):
    accuracies = accuracies or [0.5] * len(losses)
    return [
        dict.fromkeys(METRICS, accuracy)
        | {"epoch": float(epoch), "validation_loss": loss, "updates": 3.0, "seconds": 0.5}
        for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), start=1)
    ]


def slow_stop(losses, patience):
    """Epoch after which Keras' EarlyStopping ends a training, counter by counter."""
    best, waited = float("inf"), 0
    for epoch, loss in enumerate(losses, start=1):
        if loss < best:
            best, waited = loss, 0
        else:
            waited += 1
            if waited >= patience:
                return epoch
    return len(losses)


@pytest.mark.parametrize("patience", [1, 2, 3, 5])
def test_stopping_is_as_in_a_slow_count(patience):
    rng = np.random.default_rng(0)
    for _ in range(50):
        losses = rng.integers(0, 8, 15).astype(float).tolist()
        protocol = Protocol(epochs=15, select="validation_loss", patience=patience)
        done = next(n for n in range(1, 16) if is_over(history(losses[:n]), protocol))
        assert done == slow_stop(losses, patience)


def test_eitel_2019_stops_on_the_loss_and_keeps_the_best_accuracy():
    losses = [0.9, 0.5, 0.6, 0.7, 0.8]
    accuracies = [0.6, 0.7, 0.9, 0.8, 0.9]
    protocol = Protocol(epochs=45, select="validation_accuracy", stop="validation_loss", patience=3)
    rows = history(losses, accuracies)
    assert [is_over(rows[:n], protocol) for n in range(1, 6)] == [False] * 4 + [True]
    assert best_epoch(rows, protocol.select) == 3  # of two equal ones that of the lower loss
    # By accuracy itself, epoch 3 would have kept the training going.
    assert not is_over(rows, Protocol(epochs=45, select="validation_accuracy", patience=3))


def test_the_first_epochs_of_eitel_2021_are_neither_selected_nor_counted():
    losses = [0.1, 0.2, 0.3, 0.2, 0.3, 0.9, 0.8, 0.85, 0.95]
    protocol = Protocol(epochs=35, select="validation_loss", patience=2, ignore_epochs=5)
    rows = history(losses)
    assert [best_epoch(rows[:n], "validation_loss", 5) for n in range(1, 10)] == [0] * 5 + [
        6,
        7,
        7,
        7,
    ]
    assert [is_over(rows[:n], protocol) for n in range(1, 10)] == [False] * 8 + [True]


def test_what_is_not_a_number_is_never_the_best():
    assert best_epoch(history([nan, 3.0, nan]), "validation_loss") == 2
    assert best_epoch(history([1.0, 1.0], [nan, 0.2]), "validation_auc") == 2


def test_last_is_the_last_and_never_stops_by_itself():
    rows = history([0.1, 0.2, 0.3])
    assert best_epoch(rows, "last") == 3
    assert not is_over(rows, Protocol(epochs=9, select="last", patience=1))
    stopped = Protocol(epochs=9, select="last", stop="validation_loss", patience=2)
    assert is_over(rows, stopped)


def test_the_summary_counts_updates_and_seconds_until_the_stop():
    rows = [
        row | {"selected": float(row["epoch"] == 2), "validation_auc": nan}
        for row in history([0.5, 0.4, 0.6])
    ]
    assert summary(rows, 9) == {
        "Epochs": 3,
        "Updates": 9,
        "Seconds": 1.5,
        "StoppedEarly": True,
        "SelectedEpoch": 2,
        "Validation": {
            "validation_loss": 0.4,
            "validation_accuracy": 0.5,
            "validation_balanced_accuracy": 0.5,
        },
    }
    assert not summary(rows, 3)["StoppedEarly"]


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, True),
        ({"select": "last", "patience": 8}, False),
        ({"select": "last", "patience": 0, "stop": "validation_loss"}, False),
        ({"select": "last", "patience": 2, "stop": "validation_loss"}, True),
        ({"select": "validation_auc", "patience": 0}, True),
    ],
)
def test_validation_people_are_needed_for_what_looks_at_them(options, needs):
    assert Protocol(**options).needs_validation is needs


# --- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_two_scores_cost_what_torch_says(smoothing):
    torch.manual_seed(0)
    scores = torch.randn(9, 2, dtype=torch.float32) * 5
    labels = np.arange(9) % 3 == 0
    expected = nn.functional.cross_entropy(
        scores,
        torch.from_numpy(labels).long(),
        reduction="none",
        label_smoothing=smoothing,
    )
    found = Objective(smoothing=smoothing).losses(scores, labels)
    assert torch.allclose(found, expected, atol=1e-5)


def test_one_logit_costs_as_the_paper_writes_it():
    logits = torch.tensor([[-3.0], [0.0], [2.5], [60.0]])
    labels = np.array([True, False, True, False])
    p = logits[:3, 0].double().sigmoid()
    expected = torch.stack([-p[0].log(), -(1 - p[1]).log(), -p[2].log()])
    found = Objective().losses(logits, labels)
    assert torch.allclose(found[:3].double(), expected, atol=1e-6)
    assert found[3] == 60  # where 1 - p is zero in float32


def test_one_logit_and_two_scores_agree():
    scores = torch.randn(20, 2)
    one = log_odds(scores)[:, None]
    labels = np.arange(20) % 2 == 0
    objective = Objective((0.7, 1.8), 0.05)
    assert torch.allclose(objective.losses(scores, labels), objective.losses(one, labels))
    assert torch.allclose(probability(scores), scores.softmax(1)[:, 1], atol=1e-6)
    assert torch.allclose(probability(one), one[:, 0].sigmoid())


def test_balanced_weights_make_both_classes_count_the_same():
    labels = np.array([True] * 3 + [False] * 9)
    objective = Objective.of("balanced", 0.0, labels)
    assert objective.weights == pytest.approx((12 / 18, 12 / 6))
    losses = objective.losses(torch.zeros(12, 2), labels)
    assert losses[:3].sum().item() == pytest.approx(losses[3:].sum().item())
    assert losses.mean().item() == pytest.approx(np.log(2))
    assert Objective.of("none", 0.0, labels) == Objective()


def test_three_outputs_are_refused():
    with pytest.raises(InputError, match=r"\(4, 3\): two classes need .*outputs"):
        log_odds(torch.zeros(4, 3))


# --- metrics -------------------------------------------------------------------------------------


def test_validation_metrics_against_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    rng = np.random.default_rng(1)
    volumes = rng.integers(-3, 4, (30, 1, 1, 1, 1)).astype(np.float16)  # with ties
    labels = rng.random(30) < 0.3
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.fill_(0.5)
    odds = volumes[:, 0, 0, 0, 0] + 0.5
    found = evaluate(model, volumes, labels, list(range(30)), 7, "cpu")
    assert found["validation_auc"] == pytest.approx(roc_auc_score(labels, odds))
    assert found["validation_accuracy"] == pytest.approx(((odds > 0) == labels).mean())
    assert found["validation_balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels, odds > 0)
    )


# --- the penalty ---------------------------------------------------------------------------------


def toy():
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.ELU(), nn.Conv3d(2, 2, 3), nn.Linear(3, 1))


def test_named_layers_alone_are_penalised_and_their_biases_not():
    model = toy()
    before = {name: value.clone() for name, value in model.named_parameters()}
    protocol = Protocol(weight_decay=0.5, weight_decay_layers=("2",), learning_rate=1e-3)
    optimiser = adam(model, protocol)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimiser.step()  # nothing but the penalty moves a weight
    moved = {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}
    assert moved == {"2.weight"}


def test_without_names_everything_is_penalised():
    model = toy()
    optimiser = adam(model, Protocol(weight_decay=0.5))
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.5]
    assert len(optimiser.param_groups[0]["params"]) == len(list(model.parameters()))


def test_a_layer_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(InputError, match=r"no layer 'conv4' with weights; it has: 0, 2, 3"):
        adam(toy(), Protocol(weight_decay_layers=("conv4",)))
    with pytest.raises(InputError, match="freeze: the network has no layer '1'"):
        layers(toy(), ["1"], "freeze")


def test_frozen_weights_are_not_the_optimisers():
    model = toy()
    model[0].requires_grad_(False)
    optimiser = adam(model, Protocol())
    ids = {id(weight) for group in optimiser.param_groups for weight in group["params"]}
    assert ids == {id(weight) for weight in model.parameters() if weight.requires_grad}
    model.requires_grad_(False)
    with pytest.raises(InputError, match="nothing is left to train"):
        adam(model, Protocol())


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs = 0: must be 1 or more"),
        ({"batch_size": 0}, "batch_size = 0: must be 1 or more"),
        ({"patience": -1}, "patience = -1"),
        ({"ignore_epochs": 5, "epochs": 5}, "less than epochs = 5"),
        ({"label_smoothing": 1.0}, "below 1"),
        ({"schedule": "step"}, "decay = 0: must be above 0 and at most 1"),
        ({"schedule": "inverse"}, "decay = 0: must be above 0"),
        ({"stop": "loss"}, "stop = 'loss' is unknown; choose one of: validation_loss"),
        ({"class_weights": "yes"}, "class_weights = 'yes' is unknown"),
    ],
)
def test_values_that_cannot_be_used_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        Protocol(**options)
