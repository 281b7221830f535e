"""Stored anomaly models: several auto-encoders per split, and what errors are normal."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from models.anomaly import build
from models.anomaly.scores import Normal
from pipelines.images import read_nifti
from pipelines.stored_models import StoredModel, model_file, model_folder

KIND = "anomaly"  # of a model card
# Of a model card: what else than weights decides somebody's maps and percentages.
JUDGED_BY = ("Autoencoders", "Folds", "Quantile", "Measure", "Atlas", "Nuclei", "LeastVoxels")


def detector_file(
    model: str, method: str, suffix: str, extension: str, split: int | None = None
) -> str:
    """Path of one of an auto-encoder's files below the output folder."""
    part = f"_fold-{split}" if split is not None else ""
    return f"{model_folder(model)}/model-{model}{part}_method-{method}_{suffix}{extension}"


def new_detector(
    autoencoder: Mapping[str, Any], shape: tuple[int, ...], channels: int
) -> nn.Module:
    """An auto-encoder with fresh weights; ``autoencoder`` is an entry of the recipe."""
    options = {key: value for key, value in autoencoder.items() if key not in ("name", "method")}
    return build(autoencoder["method"], shape, channels=channels, **options)


def save_normal(normal: Normal, path: Path) -> None:
    """Write what errors are normal in one split."""
    tensors = {"mean": normal.mean, "sd": normal.sd, "threshold": np.float64(normal.threshold)}
    stored = {name: torch.as_tensor(value) for name, value in tensors.items()}
    save_file(stored, path, metadata={"measure": normal.measure})


def load_normal(path: Path) -> Normal:
    """Read what :func:`save_normal` wrote."""
    stored = load_file(path)
    with safe_open(path, framework="pt") as file:
        measure = file.metadata()["measure"]
    threshold = float(stored["threshold"])
    return Normal(stored["mean"].numpy(), stored["sd"].numpy(), threshold, measure)


@dataclass(frozen=True)
class StoredDetectors(StoredModel):
    """The auto-encoders of a finished group run; a fold is one split of the controls."""

    @property
    def autoencoders(self) -> list[dict[str, Any]]:
        """Entries of the recipe."""
        return self.card["Autoencoders"]

    @cached_property
    def brain(self) -> np.ndarray:
        """(x, y, z) bool: where the controls' brains overlap."""
        image = read_nifti(self.folder / f"model-{self.name}_brain.nii.gz")
        return np.asarray(image.dataobj) > 0

    def file(self, method: str, suffix: str, split: int) -> Path:
        """A file of one auto-encoder in one split."""
        name = Path(detector_file(self.name, method, suffix, ".safetensors", split)).name
        return self.folder / name

    def detector(self, autoencoder: Mapping[str, Any], split: int) -> nn.Module:
        """The trained auto-encoder of a split, in eval mode."""
        channels = self.card["Channels"]
        network = new_detector(autoencoder, self.grid.shape, channels)
        network.load_state_dict(load_file(self.file(autoencoder["name"], "weights", split)))
        return network.eval()

    def normal(self, autoencoder: Mapping[str, Any], split: int) -> Normal:
        """What errors are normal in a split."""
        return load_normal(self.file(autoencoder["name"], "normal", split))


def judged_by(output_dir: Path, model: str) -> dict[str, Any]:
    """What a stored anomaly model judges errors by; empty for any other model, or none."""
    path = output_dir / model_file(model, "modelcard", ".json")
    card = json.loads(path.read_text()) if path.exists() else {}
    return {key: card.get(key) for key in JUDGED_BY} if card.get("Kind") == KIND else {}


def is_anomaly(model: StoredModel) -> bool:
    """Whether a stored model detects anomalies instead of classifying."""
    return model.card.get("Kind") == KIND
