"""What a recipe asks of a cohort, less what cannot be known of its images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bidsapp.diary import Diary
from bidsapp.images import image_modality, image_options, registered
from bidsapp.settings import Recipe, Settings
from models.attribution import OF_REGIONS
from models.errors import InputError
from models.grids import full_grid
from models.training.search import applied, every_setting
from models.training.splits import Split
from pipelines.atlases import SHIPPED
from pipelines.baselines import BaselineOptions
from pipelines.choices import JACOBIAN
from pipelines.derivatives import OWN_SPACE, SPACE
from pipelines.heatmaps import NO_ANALYTICS, NO_COMMON_SPACE
from pipelines.interfaces.networks import image_name, prediction_keys, read_cohort
from pipelines.preprocess import modality_of
from pipelines.region_volumes import NOT_REGISTERED, Deformations, check_regions, measured_of
from pipelines.stored_models import new_network, sealed
from pipelines.study import Study
from pipelines.transfer import plan_starts


def study_of(settings: Settings, name: str, splits: Sequence[Split]) -> Study:
    """What the group level of this run is asked for."""
    recipe, network = settings.recipe, network_of(settings)
    grid = recipe.preprocessing.network_grid
    starts = plan_starts(
        recipe.training.transfer,
        splits,
        model=name,
        networks=[
            new_network(applied(changes, network, {})[0], grid)
            for changes in every_setting(recipe.training.search)
        ],
        table=network,
        output_dir=settings.output_dir,
        grid=grid,
    )
    return Study(
        model=name,
        classes=(recipe.cohort.negative, recipe.cohort.positive),
        grid=asdict(grid),
        modality=recipe.input.modality,
        intensity=recipe.preprocessing.intensity,
        network=network,
        protocol=asdict(recipe.training.protocol),
        threshold=recipe.training.threshold,
        attributions=attributions_of(recipe),
        atlas=atlas_name(recipe.regions.atlas),
        covariates=recipe.cohort.covariates,
        statistics=recipe.statistics,
        seed=settings.seed,
        volumes=volumes_of(recipe),
        starts=starts,
        view=recipe.preprocessing.view,
        exclude=recipe.regions.exclude,
        space=space_of(recipe),
        search=asdict(recipe.training.search) if recipe.training.search.draws else {},
        baselines=baselines_of(recipe),
        lesions=image_modality(settings).lesions is not None,
        site=recipe.cohort.site,
        harmonisation=recipe.harmonisation,
    )


def network_of(settings: Settings) -> dict[str, Any]:
    """The recipe's network, with as many input channels as the modality has."""
    channels = image_modality(settings).channels
    return sealed(({"channels": channels} if channels > 1 else {}) | settings.recipe.network)


def space_of(recipe: Recipe) -> str:
    """BIDS label of the space of the images."""
    return OWN_SPACE if recipe.preprocessing.registration == "none" else SPACE


def attributions_of(recipe: Recipe) -> tuple[dict[str, Any], ...]:
    """The recipe's attributions, less those that an atlas is needed for where none fits."""
    return tuple(
        one
        for one in recipe.attribution
        if space_of(recipe) == SPACE or one["method"] not in OF_REGIONS
    )


def baselines_of(recipe: Recipe) -> BaselineOptions:
    """The recipe's baselines, less those whose regions or lesions nothing is known of."""
    without = set()
    if space_of(recipe) != SPACE and not volumes_of(recipe):
        without.add("svm_regions")
    if modality_of(recipe.input.modality).lesions is None:
        without.add("svm_lesions")
    names = tuple(one for one in recipe.baselines.names if one not in without)
    return replace(recipe.baselines, names=names)


def volumes_of(recipe: Recipe) -> dict[str, str]:
    """The recipe's volumes, less those that only a registration could tell where there is none."""
    volumes = recipe.regions.volumes
    if space_of(recipe) == SPACE:
        return volumes
    return {region: column for region, column in volumes.items() if column != JACOBIAN}


def deformations_of(settings: Settings, table: Path, diary: Diary) -> Deformations | None:
    """What brought the cohort's images to the template, where volumes are asked of it."""
    recipe = settings.recipe
    wanted = measured_of(volumes_of(recipe))
    if not wanted:
        return None
    check_regions(atlas_name(recipe.regions.atlas), wanted)
    stored = image_modality(settings).stored(
        settings.output_dir, image_options(settings), "to_template"
    )
    keys = prediction_keys(read_cohort(table))
    for participant, session in keys:
        if (participant, session) not in stored:
            diary.warn(
                f"{image_name(participant, session)}: has no transform to the template, so its "
                "volumes of regions are n/a; run the participant level again with --force"
            )
    files = {key: str(stored[key].absolute()) for key in keys if key in stored}
    if not files:
        raise InputError(
            f"{settings.output_dir}: holds no transform to the template, of which volumes of "
            "regions are asked; run the participant level again with --force"
        )
    return Deformations(files, asdict(full_grid(recipe.preprocessing.resolution_mm)))


def ways_of(settings: Settings, rows: pd.DataFrame) -> dict[tuple[str, str], tuple[str, str]]:
    """Image and transform of everybody whose maps can be taken to the template afterwards."""
    kind = image_modality(settings)
    if space_of(settings.recipe) == SPACE or kind.ways is None or not settings.recipe.attribution:
        return {}
    found = kind.ways(settings.output_dir, image_options(settings))
    images = registered(settings)
    return {
        key: (str(images[key].absolute()), str(found[key].absolute()))
        for key in prediction_keys(rows)
        if key in found
    }


def limits_of(
    recipe: Recipe, ways: Mapping[tuple[str, str], tuple[str, str]] | None = None
) -> list[str]:
    """What the group level leaves out of images that were not registered."""
    if space_of(recipe) == SPACE:
        return []
    done = attributions_of(recipe)
    names = [f"attribution {one['name']}" for one in recipe.attribution if one not in done]
    fitted = baselines_of(recipe).names
    if "svm_regions" in set(recipe.baselines.names) - set(fitted):
        names.append("baseline svm_regions")
    return [
        f"not computed: {NO_ANALYTICS if ways else NO_COMMON_SPACE}",
        *(f"not computed: {name}, which needs an atlas that fits" for name in names),
        *[f"not computed: {NOT_REGISTERED}"] * bool(measured_of(recipe.regions.volumes)),
    ]


def atlas_name(wanted: str) -> str:
    """A shipped atlas by its name, a file by its whole path: nodes run in folders of their own."""
    return wanted if wanted in SHIPPED else str(Path(wanted).absolute())
