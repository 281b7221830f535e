"""The images of a run: how they are made, which are in the output folder, and whose they are."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bidsapp.cohort import CohortTable, build_cohort
from bidsapp.settings import Settings
from models.errors import InputError
from pipelines.baselines import LESION_ML
from pipelines.derivatives import read_sidecar, read_table
from pipelines.inputs import Scan
from pipelines.interfaces.networks import prediction_keys
from pipelines.preprocess import modality_of
from pipelines.preprocess.modality import Modality


def image_modality(settings: Settings) -> Modality:
    """What the run knows of its kind of image."""
    return modality_of(settings.recipe.input.modality)


def image_options(settings: Settings) -> Any:
    """The recipe's preprocessing as the modality's workflow wants it."""
    return image_modality(settings).options(asdict(settings.recipe.preprocessing), settings.seed)


def is_done(settings: Settings, scan: Scan) -> bool:
    """Whether a scan is preprocessed as the recipe says."""
    return image_modality(settings).is_done(settings.output_dir, scan, image_options(settings))


def registered(settings: Settings) -> dict[tuple[str, str], Path]:
    """Images of the recipe's registration on disk, by participant and session."""
    found = image_modality(settings).stored(settings.output_dir, image_options(settings))
    chosen = settings.sessions
    return {key: path for key, path in found.items() if not chosen or key[1] in chosen}


def quality_tables(settings: Settings) -> list[Path]:
    """Quality numbers of everybody, of every registration on disk at the recipe's resolution."""
    kind, table = image_modality(settings), asdict(settings.recipe.preprocessing)
    options = [
        kind.options(table | {"registration": how}, settings.seed) for how in kind.registrations
    ]
    found = [kind.stored(settings.output_dir, one, "quality").values() for one in options]
    return list(dict.fromkeys(path for paths in found for path in paths))


def cohort_of(settings: Settings) -> CohortTable:
    """Who takes part in a group run.

    Raises
    ------
    models.errors.InputError
        No images, images that were made otherwise than the recipe says, or a table of people that
        does not hold what the recipe asks for.
    """
    images = registered(settings)
    options = settings.recipe.preprocessing
    if not images:
        raise InputError(
            f"{settings.output_dir}: no {settings.recipe.input.modality} image with "
            f"{options.registration} registration at {options.resolution_mm:g} mm; make them "
            f"first:\n    brainwhy BIDS_DIR {settings.output_dir} participant --recipe "
            f"{settings.recipe_source}"
        )
    _check_making(settings, images)
    recipe = settings.recipe
    volumes = tuple(recipe.regions.volumes.values())
    preserve = recipe.harmonisation.preserve if recipe.harmonisation.wanted else None
    cohort = build_cohort(
        settings.output_dir, images, recipe.cohort, settings.participants, volumes, preserve
    )
    return _with_lesions(settings, cohort) if image_modality(settings).lesions else cohort


def _check_making(settings: Settings, images: Mapping[tuple[str, str], Path]) -> None:
    """Refuse images that were made in another way under the same name."""
    options = image_options(settings)
    wanted = {key: value for key, value in asdict(options).items() if key != "seed"}
    tables = image_modality(settings).stored(settings.output_dir, options, "quality")
    for key in images.keys() & tables.keys():
        made = read_sidecar(tables[key]).get("Options") or {}
        for name, value in wanted.items():
            if made.get(name, value) != value:
                raise InputError(
                    f"{images[key]}: was made with {name} = {made[name]}, the recipe says {value}; "
                    f"run the participant level with --recipe {settings.recipe_source}"
                )


def _with_lesions(settings: Settings, cohort: CohortTable) -> CohortTable:
    """The cohort with the lesions of each image: their mask, and their volume in ml."""
    kind, options = image_modality(settings), image_options(settings)
    assert kind.lesions is not None
    tables = kind.stored(settings.output_dir, options, "quality")
    masks, volumes = [], []
    for key in prediction_keys(cohort.rows):
        mask = settings.output_dir / kind.lesions(Scan(*key, Path()), options)
        volume = read_table(tables[key])[LESION_ML].iloc[0] if key in tables else None
        # A file alone is not enough: it may be of a mask that the dataset has no more.
        known = mask.exists() and not pd.isna(volume)
        masks.append(str(mask) if known else "")
        volumes.append(volume if known else None)
    rows = cohort.rows.assign(lesions=masks, **{LESION_ML: volumes})
    return replace(cohort, rows=rows)
