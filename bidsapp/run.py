"""The story of one run: check all that can be checked, then do what was asked, level by level."""

from collections.abc import Callable
from dataclasses import asdict

from bidsapp import anomaly
from bidsapp.cohort import check_table
from bidsapp.diary import tell
from bidsapp.group import group
from bidsapp.images import image_modality
from bidsapp.participant import participant
from bidsapp.settings import Settings, parse
from bidsapp.study import network_of
from models.errors import InputError
from models.training.augmentation import check_flips
from models.training.optimiser import adam
from models.training.protocol import Protocol
from models.training.search import applied, every_setting
from pipelines.atlases import atlas
from pipelines.inputs import check_dataset
from pipelines.interfaces.attribution import check_values
from pipelines.stored_models import new_network

DONE, FAILED = 0, 1


def run(settings: Settings) -> int:
    """Do what was asked, level by level.

    Returns
    -------
    int
        0 when everything was done, 1 when something failed and the rest was done.

    Raises
    ------
    models.errors.InputError
        Nothing can be run at all.
    """
    check_recipe(settings)
    failed = False
    for number, level in enumerate(settings.levels):
        if settings.dry_run and number > 0:
            tell(f"then the {level} level")
            break
        step: Callable[[Settings], bool] = {"participant": participant, "group": group}[level]
        try:
            failed |= step(settings)
        except InputError as error:
            if number == 0:
                raise
            tell(str(error))  # the first level is done, so this is a failure and no refusal
            failed = True
    return FAILED if failed else DONE


def check_recipe(settings: Settings) -> None:
    """Refuse now what would otherwise fail after hours of preprocessing or training."""
    if "group" not in settings.levels or settings.reports_only:
        return
    recipe = settings.recipe
    if recipe.autoencoder:
        anomaly.check_recipe(settings, image_modality(settings))
    else:
        _check_trainings(settings)
    recipe.preprocessing.view.check(image_modality(settings), recipe.preprocessing.network_grid)
    recipe.regions.exclude.voxels(recipe.preprocessing.network_grid)
    atlas(recipe.regions.atlas)
    for attribution in recipe.attribution:
        check_values(attribution)
    if "participant" in settings.levels:
        check_dataset(settings.bids_dir)
        check_table(settings.bids_dir, recipe.cohort)


def _check_trainings(settings: Settings) -> None:
    """Build every network that the recipe trains, and read its protocol."""
    recipe = settings.recipe
    for changes in every_setting(recipe.training.search):
        table, options = applied(changes, network_of(settings), asdict(recipe.training.protocol))
        network = new_network(table, recipe.preprocessing.network_grid)
        protocol = parse(Protocol, options, settings.recipe_source, "training.protocol")
        adam(network, protocol)
        check_flips(network, protocol.augmentation)
