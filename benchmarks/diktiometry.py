"""Diktiometry beside the voxelwise test: what finds a local, and what a non-local effect.

python benchmarks/diktiometry.py [--local 1 0] [--asymmetry 1 2] [--people 20] [--json FILE]

People are those of the diffusion demo, as a linear registration leaves them: tensors of the
template warped by each one's anatomy, with noise, on a 5 mm grid. Patients differ in mean
diffusivity and anisotropy in one place (local), and in which side of another place is more
anisotropic (asymmetry). Every pair of effect sizes has its own networks and maps, out of fold, the
mean of two divisions of the people. AUC: chance that a voxel of the place has a larger value than
one elsewhere in the brain; the other place is left out. .5 is chance.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from bidsapp.demo import dwi as demo_dwi
from models.attribution import attribute
from models.diffusion_phantom import tensors_of
from models.grids import GRIDS
from models.networks import build
from models.phantom import Canvas, HeadModel, displacement, person_seed, sample, stream
from models.reorientation import preserve_principal_direction
from models.smoothing import smooth
from models.statistics.glm import fit, two_group_design
from models.tensor import eigen, positive, scalars
from models.training.augmentation import Augmentation
from models.training.evaluation import predict
from models.training.loop import train
from models.training.metrics import point_metrics
from models.training.protocol import Protocol
from models.training.splits import Plan, split_people
from models.trust.localisation import roc_auc

GRID = GRIDS["5mm"].cropped([[4, 35], [4, 42], [1, 34]])  # around the brain
NOISE = 4e-5  # SD of each component of a tensor, mm^2/s
SCALE = 3e-3  # what a network sees is divided by
FWHM_MM = 8.0
MEASURES = {"md": "muhat", "sigma": "sigma", "fa": "fa"}
NETWORK = {"widths": (8, 8, 16, 16, 32, 32, 32, 32), "hidden": 32, "channels": 6}


def people(count: int, local: float, asymmetry: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tensors (people, 6, x, y, z) of the demo's people, and who is a patient."""
    model = demo_dwi._head(GRID.voxel_mm)
    places = demo_dwi._places(model)
    who = [demo_dwi._someone(index, seed) for index in range(count)]
    volumes = []
    for one in who:
        changes = demo_dwi.changes_of(one, places, local, asymmetry, seed)
        volumes.append(as_registered(model, tensors_of(model, changes), one, seed))
    return np.stack(volumes), np.array([one.diagnosis == demo_dwi.PATIENT for one in who])


def as_registered(
    model: HeadModel, tissue: np.ndarray, who: demo_dwi.Person, seed: int
) -> np.ndarray:
    """Tensors (6, x, y, z) of one person on the template's grid; 0 outside the brain."""
    person = person_seed(seed, who.index)
    canvas = Canvas(GRID.shape, GRID.voxel_mm, np.array(GRID.origin_mm))
    field = displacement(model, stream(person, 1), float(who.age))
    points = canvas.points_mm()
    points = points + sample(field, model.warp_canvas, points)
    moved = np.moveaxis(sample(tissue, model.canvas, points), 0, -1)
    pullback = np.stack(
        [np.stack(np.gradient(row, GRID.voxel_mm), -1) for row in points.astype(float)], -2
    )
    forward = torch.linalg.inv(torch.as_tensor(pullback, dtype=torch.float32))
    turned = preserve_principal_direction(torch.as_tensor(moved, dtype=torch.float32), forward)
    noise = stream(person, 9).normal(0, NOISE, turned.shape)
    brain = sample(model.brain, model.canvas, points) >= 0.5
    return np.moveaxis((turned.numpy() + noise) * brain[..., None], -1, 0).astype(np.float32)


def sensitivities(
    volumes: np.ndarray, patients: np.ndarray, protocol: Protocol, plan: Plan, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Out-of-fold derivatives (people, x, y, z) of each measure, and how well people are told."""
    labels = {f"{k:03d}": bool(one) for k, one in enumerate(patients)}
    maps = {name: np.zeros((len(volumes), *GRID.shape), np.float32) for name in MEASURES}
    chance = np.zeros(len(volumes))
    for split in split_people(labels, plan, seed=seed):
        rows = {
            role: [k for k, who in enumerate(labels) if split.roles[who] == role]
            for role in ("train", "test")
        }
        torch.manual_seed(seed + split.number)
        network = build("diktiometry", GRID.shape, **NETWORK)
        train(
            network, volumes, patients, train_rows=rows["train"], validation_rows=[],
            protocol=protocol, seed=seed + split.number,
        )  # fmt: skip
        network.eval()
        scores = torch.softmax(predict(network, volumes, rows["test"]), 1)[:, 1]
        chance[rows["test"]] += scores.numpy() / plan.repeats
        batch = torch.from_numpy(volumes[rows["test"]])
        for name, measure in MEASURES.items():
            found = attribute(network, batch, method="diktiometry", measure=measure)
            maps[name][rows["test"]] += found.heatmap[:, 0].numpy() / plan.repeats
    points = point_metrics(patients, chance, 0.5)
    return maps, {name: float(points[name]) for name in ("accuracy", "roc_auc")}


def measures(volumes: np.ndarray) -> dict[str, np.ndarray]:
    """MD, sigma and FA (people, x, y, z) of tensors; 0 outside the brain."""
    inside = np.any(volumes != 0, axis=1)
    tensors = torch.as_tensor(np.moveaxis(volumes, 1, -1)[inside], dtype=torch.float64)
    found = scalars(eigen(positive(tensors, 0.0)[0])[0])
    maps = {name: np.zeros(inside.shape, np.float32) for name in MEASURES}
    for name, volume in maps.items():
        volume[inside] = found[name].numpy()
    return maps


def tested(maps: np.ndarray, patients: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """T (x, y, z) between the groups of smoothed maps (people, x, y, z)."""
    data = np.stack([smooth(one, GRID.affine, FWHM_MM, brain)[brain] for one in maps])
    found = np.zeros(brain.shape)
    found[brain] = fit(data, two_group_design(patients)).statistic
    return found


def places() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each place and the other one (x, y, z) on the grid."""
    model = demo_dwi._head(GRID.voxel_mm)
    canvas = Canvas(GRID.shape, GRID.voxel_mm, np.array(GRID.origin_mm))
    made, points = demo_dwi._places(model), canvas.points_mm()
    white = tensors_of(model)
    spread = sample(white.std(0), model.canvas, points)
    deep = spread > np.median(spread[spread > 0])  # anisotropic: white matter
    local, sides = (
        (sample(one, model.canvas, points) > 0.5) & deep
        for one in (made.local, made.left + made.right)
    )
    return {"local": (local, sides), "asymmetry": (sides, local)}


def study(
    sizes: dict[str, float], count: int, protocol: Protocol, plan: Plan, seed: int
) -> list[dict]:
    """Rows of one size of both effects, ``local`` and ``asymmetry``."""
    volumes, patients = people(count, **sizes, seed=seed)
    brain = np.any(volumes != 0, axis=1).mean(0) >= 0.9
    derived, told = sensitivities(volumes / SCALE, patients, protocol, plan, seed)
    own, rows = measures(volumes), []
    for name in MEASURES:
        shown = {
            "sensitivity": smooth(derived[name].mean(0), GRID.affine, 4.0),
            "diktiometry": tested(derived[name], patients, brain),
            "traditional": tested(own[name], patients, brain),
        }
        for place, (inside, other) in places().items():
            counted = brain & (inside | ~other)
            found = {
                title: roc_auc(np.abs(one), inside & brain, counted) for title, one in shown.items()
            }
            largest = {
                f"{title}_t": float(np.abs(shown[title][inside & brain]).max())
                for title in ("diktiometry", "traditional")
            }
            rows.append(
                {f"effect_{one}": size for one, size in sizes.items()}
                | {"people": count, "seed": seed, **told, "place": place, "measure": name}
                | found
                | largest
            )
    return rows


def line(row: dict) -> str:
    """A row of the table in Markdown."""
    cells = [f"{one:.2f}" if isinstance(one, float) else str(one) for one in row.values()]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run every pair of effect sizes and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--local", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.0])
    options.add_argument("--asymmetry", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.0])
    options.add_argument("--people", type=int, default=20)
    options.add_argument("--epochs", type=int, default=30)
    options.add_argument("--folds", type=int, default=5)
    options.add_argument("--repeats", type=int, default=2)
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    if len(given.local) != len(given.asymmetry):
        options.error("--local and --asymmetry go in pairs: give as many of one as of the other")
    protocol = Protocol(
        epochs=given.epochs, batch_size=4, learning_rate=3e-3, weight_decay=1e-4,
        schedule="onecycle", select="last", patience=0,
        augmentation=Augmentation(shift_voxels=1, shift_axes=("sagittal", "coronal", "axial")),
    )  # fmt: skip
    plan = Plan(folds=given.folds, repeats=given.repeats, validation_share=0.0)
    rows: list[dict] = []
    for local, asymmetry in zip(given.local, given.asymmetry, strict=True):
        for seed in given.seeds:
            sizes = {"local": local, "asymmetry": asymmetry}
            rows += study(sizes, given.people, protocol, plan, seed)
            if len(rows) == 6:
                print("| " + " | ".join(rows[0]) + " |")
                print("|" + "---|" * len(rows[0]))
            print("\n".join(map(line, rows[-6:])), flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
