"""The training loop on volumes of 6x6x6 voxels and a network of a few hundred weights."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from models.errors import InputError
from models.training.augmentation import Augmentation
from models.training.loop import Protocol, evaluate, predict, train

TRAIN, VALIDATION = list(range(16)), list(range(16, 24))
ALL_CHANGES = Augmentation(
    gamma=0.3,
    noise_sd=0.05,
    flip_probability=0.5,
    flip_classes="negative",
    rotation_degrees=10,
    shift_voxels=1,
    shift_axes=("sagittal", "coronal", "axial"),
)


def cohort(effect=2.0, seed=0, images=24):
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 2 == 0
    volumes = rng.normal(size=(images, 1, 6, 6, 6)).astype(np.float16)
    volumes[labels, :, 2:4, 2:4, 2:4] += effect
    return volumes, labels


def network(seed=0, dropout=0.3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32, 2),
    )


def fit(model=None, data=None, *, train_rows=TRAIN, validation_rows=VALIDATION, **options):
    """Train on the toy cohort; Protocol's fields and train's keywords may be given."""
    keywords = ("seed", "checkpoint", "report", "names")
    passed = {k: options.pop(k) for k in keywords if k in options}
    protocol = Protocol(**{"epochs": 6, "learning_rate": 1e-2, "patience": 0} | options)
    model = network() if model is None else model
    history = train(
        model,
        *(cohort() if data is None else data),
        train_rows=train_rows,
        validation_rows=validation_rows,
        protocol=protocol,
        **passed,
    )
    return model, history


def same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def untimed(history):
    """A history without what the clock says."""
    clock = ("seconds", "images_per_second")
    return [{key: value for key, value in row.items() if key not in clock} for row in history]


class Stopped(Exception):
    """What a killed process looks like from inside."""


def stop_at(epoch):
    def report(row):
        if row["epoch"] == epoch:
            raise Stopped

    return report


def test_it_learns_what_can_be_learned():
    volumes, labels = cohort(effect=4.0, images=40)
    unseen = list(range(24, 40))
    moved = Augmentation(flip_probability=0.5, shift_voxels=1, shift_axes=ALL_CHANGES.shift_axes)
    model, history = fit(data=(volumes, labels), epochs=15, augmentation=moved)
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    found = evaluate(model, volumes, labels, unseen, 4, "cpu")
    untrained = evaluate(network(), volumes, labels, unseen, 4, "cpu")
    assert found["validation_balanced_accuracy"] >= 0.9
    assert found["validation_loss"] < 0.5 * untrained["validation_loss"]


def test_full_batches_are_adam_with_an_l2_penalty_word_for_word():
    volumes, labels = cohort()
    model, history = fit(
        network(dropout=0.0),
        epochs=4,
        batch_size=16,
        learning_rate=3e-3,
        weight_decay=0.1,
        select="last",
    )
    ours = network(dropout=0.0)
    x, y = torch.from_numpy(volumes[TRAIN]).float(), torch.from_numpy(labels[TRAIN]).long()
    first, second = ({n: 0 for n, _ in ours.named_parameters()} for _ in range(2))
    for step in range(1, 5):
        loss = nn.functional.cross_entropy(ours(x), y)
        assert history[step - 1]["train_loss"] == pytest.approx(loss.item(), rel=1e-4)
        gradients = torch.autograd.grad(loss, list(ours.parameters()))
        with torch.no_grad():
            for (name, weight), gradient in zip(ours.named_parameters(), gradients, strict=True):
                gradient = gradient + 0.1 * weight
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                moved = first[name] / (1 - 0.9**step)
                weight -= 3e-3 * moved / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
    for (name, mine), theirs in zip(ours.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=2e-5), name


@pytest.mark.parametrize("select", ["validation_loss", "validation_balanced_accuracy", "last"])
def test_it_ends_with_the_weights_of_the_selected_epoch(select):
    model, snapshots, data = network(), {}, cohort(effect=0.5, seed=3)
    _, history = fit(
        model,
        data,
        epochs=12,
        select=select,
        report=lambda row: snapshots.update({row["epoch"]: deepcopy(model)}),
    )
    losses = [row["validation_loss"] for row in history]
    accuracies = [row["validation_balanced_accuracy"] for row in history]
    best = {
        "validation_loss": int(np.argmin(losses)),
        "validation_balanced_accuracy": min(range(12), key=lambda i: (-accuracies[i], losses[i])),
        "last": 11,
    }[select]
    assert [row["selected"] for row in history] == [float(i == best) for i in range(12)]
    assert same_state(model, snapshots[best + 1])
    if select != "last":
        assert best != 11
        assert not same_state(model, snapshots[12])


def test_accuracy_ties_go_to_the_lower_loss():
    data = cohort(effect=4.0)
    _, history = fit(data=data, epochs=15)
    perfect = [row for row in history if row["validation_balanced_accuracy"] == 1]
    chosen = next(row for row in history if row["selected"])
    assert len(perfect) > 2
    assert chosen["validation_loss"] == min(row["validation_loss"] for row in perfect)
    assert chosen is not perfect[0]


def test_the_history_says_what_the_model_does():
    model, history = fit(epochs=5, select="validation_loss")
    volumes, labels = cohort()
    found = evaluate(model, volumes, labels, VALIDATION, 3, "cpu")
    chosen = next(row for row in history if row["selected"])
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert found == pytest.approx({name: chosen[name] for name in found}, rel=1e-5)
    scores = predict(model, volumes, VALIDATION)
    hits = (scores.argmax(1).bool().numpy() == labels[VALIDATION]).mean()
    assert found["validation_balanced_accuracy"] == pytest.approx(hits)  # classes of equal size


def test_the_training_loss_is_the_mean_over_images():
    still = nn.Sequential(nn.Flatten(), nn.Linear(216, 2))
    volumes, labels = cohort()
    _, history = fit(still, train_rows=TRAIN[:11], batch_size=4, learning_rate=0.0, epochs=1)
    found = evaluate(still, volumes, labels, TRAIN[:11], 4, "cpu")
    assert history[0]["train_loss"] == pytest.approx(found["validation_loss"], rel=1e-5)


def test_a_model_given_in_eval_mode_is_trained_all_the_same():
    one, other = (fit(network().train(mode), epochs=2)[0] for mode in (True, False))
    assert same_state(one, other)
    assert not torch.equal(one[1].running_mean, torch.zeros(4))


@pytest.mark.parametrize(("patience", "epochs"), [(3, 4), (1, 2), (0, 10)])
def test_early_stopping_counts_epochs_without_a_better_one(patience, epochs):
    still = nn.Sequential(nn.Flatten(), nn.Linear(216, 2))
    _, history = fit(still, epochs=10, learning_rate=0.0, patience=patience)
    assert len(history) == epochs
    assert history[0]["selected"] == 1


def test_patience_starts_anew_with_every_better_epoch():
    _, history = fit(data=cohort(effect=0.5, seed=3), epochs=60, patience=4)
    best = next(row["epoch"] for row in history if row["selected"])
    assert best > 1
    assert len(history) == best + 4 < 60


@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_fold_is_bit_identical(tmp_path, schedule, stop):
    options = {
        "epochs": 6,
        "schedule": schedule,
        "augmentation": ALL_CHANGES,
        "select": "validation_loss",
        "seed": 5,
    }
    whole, expected = fit(**options)
    checkpoint = tmp_path / "fold.pt"
    with pytest.raises(Stopped):
        fit(checkpoint=checkpoint, report=stop_at(stop + 1), **options)
    seen = []
    torch.manual_seed(999)
    # What the new process draws for its weights must not matter.
    resumed, history = fit(network(seed=77), checkpoint=checkpoint, report=seen.append, **options)
    assert [row["epoch"] for row in seen] == list(range(stop + 1, 7))
    assert same_state(resumed, whole)
    assert untimed(history) == untimed(expected)


class Flaky:
    """Volumes on a disk that fails after some reads."""

    def __init__(self, volumes, reads):
        self.volumes, self.reads = volumes, reads

    def __getitem__(self, row):
        self.reads -= 1
        if self.reads < 0:
            raise Stopped
        return self.volumes[row]


def test_a_fold_stopped_amid_an_epoch_repeats_that_epoch(tmp_path):
    volumes, labels = cohort()
    options = {"augmentation": ALL_CHANGES, "schedule": "onecycle"}
    whole, expected = fit(**options)
    checkpoint = tmp_path / "fold.pt"
    with pytest.raises(Stopped):
        fit(data=(Flaky(volumes, 3 * 24 + 7), labels), checkpoint=checkpoint, **options)
    resumed, history = fit(network(seed=7), checkpoint=checkpoint, **options)
    assert same_state(resumed, whole)
    assert untimed(history) == untimed(expected)


def test_the_best_epoch_before_the_interruption_is_kept(tmp_path):
    options = {"data": cohort(effect=0.5, seed=3), "epochs": 12, "select": "validation_loss"}
    whole, expected = fit(**options)
    best = next(int(row["epoch"]) for row in expected if row["selected"])
    with pytest.raises(Stopped):
        fit(checkpoint=tmp_path / "fold.pt", report=stop_at(best + 2), **options)
    resumed, history = fit(network(seed=7), checkpoint=tmp_path / "fold.pt", **options)
    assert same_state(resumed, whole)
    assert untimed(history) == untimed(expected)


@pytest.mark.parametrize("patience", [0, 2])
def test_a_finished_fold_is_read_not_trained(tmp_path, patience):
    options = {"checkpoint": tmp_path / "fold.pt", "patience": patience, "epochs": 8}
    done, expected = fit(data=cohort(effect=0.5, seed=3), **options)
    again, history = fit(
        network(seed=7), data=cohort(effect=0.5, seed=3), report=stop_at(None), **options
    )
    assert same_state(done, again)
    assert untimed(history) == untimed(expected)
    seen = []
    fit(data=cohort(effect=0.5, seed=3), report=seen.append, **options)
    assert seen == []


def test_the_seed_decides(tmp_path):
    options = {"augmentation": ALL_CHANGES, "select": "last", "epochs": 2}
    one, other, third = (fit(seed=seed, **options)[0] for seed in (1, 1, 2))
    assert same_state(one, other)
    assert not same_state(one, third)


class Recorder:
    """Augmentation that changes nothing and remembers the first voxel of every image."""

    def __init__(self):
        self.seen = []

    def draw(self, labels, generator):
        return labels

    def apply(self, images, draws):
        self.seen += images[:, 0, 0, 0, 0].int().tolist()
        return images


@pytest.mark.parametrize("batch_size", [1, 3, 5, 16, 99])
def test_every_training_image_is_augmented_once_an_epoch_and_no_other(batch_size):
    volumes, labels = cohort()
    volumes[:, 0, 0, 0, 0] = np.arange(24)
    recorder, rows = Recorder(), [*range(3, 19)]
    fit(
        data=(volumes, labels),
        train_rows=rows,
        validation_rows=[0, 1, 2, 19, 20],
        epochs=3,
        batch_size=batch_size,
        augmentation=recorder,
    )
    epochs = np.array(recorder.seen).reshape(3, 16)
    assert all(sorted(epoch) == rows for epoch in epochs.tolist())
    assert epochs[0].tolist() != epochs[1].tolist() != epochs[2].tolist()


def test_a_last_batch_of_one_joins_its_neighbour():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(216, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    _, history = fit(flat, train_rows=TRAIN[:9], batch_size=4, epochs=2)
    assert len(history) == 2


@pytest.mark.parametrize("people", [8, 9, 10])
def test_onecycle_rises_to_the_rate_and_ends_at_nothing(monkeypatch, people):
    rates = []

    class Recorded(torch.optim.Adam):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Adam", Recorded)
    fit(train_rows=TRAIN[:people], batch_size=4, epochs=10, schedule="onecycle")
    assert max(rates) == pytest.approx(1e-2, rel=0.1)
    assert 0 < np.argmax(rates) < len(rates) / 2
    assert rates[0] < 1e-3
    assert rates[-1] < 1e-3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_image(value):
    volumes, labels = cohort()
    volumes[5, 0, 3, 3, 3] = value
    names = [f"sub-{row:02d}" for row in range(24)]
    with pytest.raises(FloatingPointError, match=r"epoch 1, batch \d, .* sub-05, whose voxels"):
        fit(data=(volumes, labels), batch_size=4, names=names)
    with pytest.raises(FloatingPointError, match="images row 5, whose voxels"):
        fit(data=(volumes, labels), batch_size=4)


def test_a_rate_that_is_too_high_keeps_the_last_good_checkpoint(tmp_path):
    class Overflows(nn.Sequential):
        """Its scores are no numbers from the sixth batch on (4 batches an epoch)."""

        seen = 0

        def forward(self, images):
            self.seen += self.training
            return super().forward(images) * (float("nan") if self.seen > 5 else 1)

    model = Overflows(nn.Flatten(), nn.Linear(216, 2))
    names = [f"sub-{row:02d}" for row in range(24)]
    checkpoint = tmp_path / "fold.pt"
    with pytest.raises(FloatingPointError) as raised:
        fit(model, batch_size=4, names=names, checkpoint=checkpoint)
    said = str(raised.value)
    assert "epoch 2, batch 2, " in said
    assert said.count("sub-") == 4
    assert "which are all numbers: lower [training.protocol] learning_rate" in said
    assert said.endswith("the checkpoint of epoch 1 is kept")
    saved = torch.load(checkpoint, weights_only=True)
    assert len(saved["state"]["history"]) == 1
    assert all(weight.isfinite().all() for weight in saved["parts"][0].values())


@pytest.mark.parametrize("select", ["validation_loss", "validation_balanced_accuracy"])
def test_selection_by_validation_needs_both_classes_there(select):
    with pytest.raises(InputError, match=f"select = '{select}' needs validation people"):
        fit(validation_rows=[], select=select)
    with pytest.raises(InputError, match="validation part of this fold has one class only"):
        fit(validation_rows=[16, 18, 20], select=select)


def test_without_validation_the_last_epoch_is_taken():
    _, history = fit(validation_rows=[], select="last", epochs=3, patience=0)
    assert [row["selected"] for row in history] == [0, 0, 1]
    assert all(np.isnan(row["validation_loss"]) for row in history)


def test_training_on_one_class_is_refused():
    with pytest.raises(InputError, match="training part of this fold has one class only"):
        fit(train_rows=TRAIN[::2])


@pytest.mark.parametrize("name", ["select", "schedule"])
def test_unknown_choices_are_input_errors(name):
    with pytest.raises(InputError, match=f"{name} = 'best' is unknown; choose one of"):
        Protocol(**{name: "best"})


@pytest.mark.parametrize("mode", [True, False])
def test_predict_keeps_the_modes(mode):
    volumes, _ = cohort()
    model = network().train(mode)
    model[1].training = not mode  # a frozen BatchNorm, say
    before = deepcopy(model)
    scores = predict(model, volumes, TRAIN)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert same_state(model, before)
    assert not scores.requires_grad
    with pytest.raises(Stopped):
        predict(model, Flaky(volumes, 5), TRAIN)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]


def test_predict_is_the_network_in_eval_mode_row_by_row():
    volumes, _ = cohort()
    model, rows = network(), [7, 0, 7, 23, 5]
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(volumes[rows]).float())
    model.train()
    for batch_size in (1, 2, 4, 99):
        assert torch.allclose(predict(model, volumes, rows, batch_size), expected, atol=1e-6)
    assert predict(model, volumes, []).shape == (0, 2)
