"""Maps that explain nothing, to hold the real ones against: networks that never learnt."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from pipelines.derivatives import read_table
from pipelines.heatmaps import Regions
from pipelines.interfaces.attribution import Surroundings, explain_rows
from pipelines.interfaces.networks import prediction_keys
from pipelines.preprocess import modality_of
from pipelines.stored_models import StoredModel


def untrained_maps(output_dir: Path, model_label: str, seed: int = 0) -> dict[str, nib.Nifti1Image]:
    """Mean map of the positive class by a network with random weights, per method.

    Same architecture, same images, same parameters as the stored model: what is left is what the
    image's own contrast and the shape of the network make of a map.

    Parameters
    ----------
    output_dir : Path
        A finished group run.
    model_label : str
        Name of its model.
    """
    model = StoredModel(output_dir / "models" / f"model-{model_label}")
    positive = model.card["Classes"][1]
    predictions = read_table(output_dir / f"group/model-{model_label}_desc-oof_predictions.tsv")
    patients = predictions[predictions["label"] == positive].drop_duplicates("participant_id")
    kind = modality_of(model.modality)
    stored = kind.stored(output_dir, kind.options(model.card["Recipe"]["preprocessing"], 0))
    images = [stored[key] for key in prediction_keys(patients)]
    intensity = model.card["Intensity"]
    volumes = np.stack([model.view.read(kind, one, model.grid, intensity) for one in images])
    torch.manual_seed(seed)
    network = model.new_network().eval()
    regions = Regions.of_space(model.space, model.card["Atlas"], model.grid)
    around = Surroundings.on(model.grid, regions)
    rows, maps = list(range(len(volumes))), {}
    for attribution in model.card["Attributions"]:
        found, _ = explain_rows(network, volumes, rows, attribution, 1, around)
        maps[attribution["name"]] = nib.Nifti1Image(found.mean(0), model.grid.affine)
    return maps
