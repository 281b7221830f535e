"""The anomaly detection of a run: its checks, its divisions of the controls, its study."""

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from bidsapp.cohort import CohortTable
from bidsapp.diary import Diary
from bidsapp.settings import Settings
from models.anomaly.matching import matched_divisions
from models.errors import InputError
from models.training.splits import Split
from pipelines.anomaly import AnomalyStudy
from pipelines.detectors import new_detector
from pipelines.preprocess.modality import Modality

UNIT_SCALES = ("max", "minmax", "percentile")  # of models.volumes.INTENSITIES, those up to 1


def check_recipe(settings: Settings, modality: Modality) -> None:
    """Refuse now what would fail after hours: options, the scale, images without a template."""
    recipe = settings.recipe
    for entry in recipe.autoencoder:
        new_detector(entry, recipe.preprocessing.network_grid.shape, modality.channels)
    # Maps of several parameters have units, by which they are scaled.
    scales = ("max",) if modality.parameters else UNIT_SCALES
    if recipe.preprocessing.intensity not in scales:
        raise InputError(
            f"[preprocessing] intensity = '{recipe.preprocessing.intensity}': auto-encoders give "
            f"back values in [0, 1]; use {' or '.join(map(repr, scales))}"
        )
    if recipe.cohort.group:
        raise InputError(
            f"[cohort] group = '{recipe.cohort.group}': the splits of an anomaly detection do not "
            "keep families together; keep one of each family, and leave it out"
        )
    if recipe.harmonisation.wanted:
        raise InputError(
            "[harmonisation]: harmonised values leave [0, 1], which auto-encoders give back; "
            "leave it out"
        )
    if recipe.preprocessing.mirror or recipe.preprocessing.mask.regions:
        raise InputError(
            "[preprocessing] mirror, mask: auto-encoders see left as left, and the whole brain; "
            "leave them out"
        )
    if recipe.preprocessing.registration == "none":
        raise InputError(
            "[preprocessing] registration = 'none': anomalies are errors at one place of many "
            "brains; register them"
        )


def divisions(settings: Settings, cohort: CohortTable, diary: Diary) -> list[Split]:
    """Controls to train and controls to test, matched on the covariates; patients are tested.

    Raises
    ------
    models.errors.InputError
        Too few controls; the message says how many are needed.
    """
    options = settings.recipe.anomaly
    people = cohort.rows.drop_duplicates("participant_id").set_index("participant_id")
    controls = people[~people["positive"].astype(bool)]
    covariates = {name: _values(controls[name]) for name in settings.recipe.cohort.covariates}
    if not covariates:
        diary.warn("the splits of the controls are not matched: [cohort] covariates names nothing")
    tests, warnings = matched_divisions(
        list(controls.index),
        covariates,
        count=options.splits,
        test_share=options.test_share,
        tolerance=options.match_tolerance,
        seed=settings.seed,
    )
    for sentence in [*warnings, *_never_tested(controls.index, tests)]:
        diary.warn(sentence)
    return [
        Split(
            repeat=number,
            fold=1,
            number=number,
            roles={
                str(person).removeprefix("sub-"): "test"
                if row.positive or person in chosen
                else "train"
                for person, row in people.iterrows()
            },
        )
        for number, chosen in enumerate(tests, start=1)
    ]


def _values(column: pd.Series) -> "pd.Series":
    """Numbers, or the words of a column that has none."""
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().any():
        return numbers.to_numpy(float)
    return column.fillna("").astype(str).to_numpy(object)


def _never_tested(controls: Sequence[str], tests: Sequence[Sequence[str]]) -> list[str]:
    left_out = {person for chosen in tests for person in chosen}
    never = sorted(set(controls) - left_out)
    if not never:
        return []
    return [f"{', '.join(never)}: trained in every split, so without a map; raise [anomaly] splits"]


def study(
    settings: Settings, modality: Modality, name: str, atlas: str, nuclei: str
) -> AnomalyStudy:
    """What the run is about; the atlases by name or by absolute path."""
    recipe, options = settings.recipe, settings.recipe.anomaly
    return AnomalyStudy(
        model=name,
        classes=(recipe.cohort.negative, recipe.cohort.positive),
        grid=asdict(recipe.preprocessing.network_grid),
        modality=modality.suffix,
        intensity=recipe.preprocessing.intensity,
        channels=modality.channels,
        parameters=modality.parameters,
        autoencoders=recipe.autoencoder,
        atlas=atlas,
        nuclei=nuclei,
        quantile=options.quantile,
        measure=options.measure,
        least_voxels=options.least_voxels,
        one_class_stride=options.one_class_stride,
        seed=settings.seed,
        matched=recipe.cohort.covariates,
    )
