"""Follow-up of a method's clusters in the images themselves, as derivatives (Nazari 2021)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from models.follow_up import balance, cluster_means, compare, correlate
from pipelines.analytics import Sheet
from pipelines.interfaces.networks import prediction_keys
from pipelines.preprocess.modality import Modality
from pipelines.retrainings import Retrainings

TRAINING, VALIDATION, TEST = "training", "validation", "test"
DRAWN = (TRAINING, TEST)  # subsets of the figure
SHOWN = 3  # clusters of a figure
NOT_NEW = (
    "The clusters were found with the same people's images: a network learnt from the training "
    "people, and the maps are of the test people. Differences in them are optimistic; new people "
    "would tell."
)


@dataclass(frozen=True, eq=False)
class Measured:
    """People with their images, one each: those who were tested, then the others.

    Parameters
    ----------
    names : list of str
        ``sub-01`` and so on.
    positive : numpy.ndarray
        (people,) bool.
    subset : numpy.ndarray
        (people,) of "test" (a heatmap of the person is among the maps), "training" or
        "validation" (networks only watched the person).
    measures : pandas.DataFrame
        A row per person; the first column is the leading measure.
    covariates : pandas.DataFrame
    volumes : sequence
        Image (x, y, z) of each person as networks see it, read when asked for.
    """

    names: list[str]
    positive: np.ndarray
    subset: np.ndarray
    measures: pd.DataFrame
    covariates: pd.DataFrame
    volumes: Sequence[np.ndarray]


class _Images:
    """First channel of some rows of the cache, one in memory at a time, ``lifted`` in the brain."""

    def __init__(self, cache: Any, rows: list[int], lifted: float) -> None:
        self.cache, self.rows, self.lifted = cache, rows, lifted

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> np.ndarray:
        image = np.asarray(self.cache.volumes[self.rows[i], 0], np.float32)
        return np.where(image != 0, image + np.float32(self.lifted), 0)


def measured_people(
    cohort: pd.DataFrame,
    cache: Any,
    people: Retrainings,
    kind: Modality,
    covariates: Sequence[str],
    intensity: str = "stored",
    splits: Sequence[Mapping[str, Any]] = (),
) -> Measured:
    """Whom networks were given, by the image that is judged, else by the first one.

    Parameters
    ----------
    cohort : pandas.DataFrame
        See `pipelines.interfaces.networks.read_cohort`.
    cache : models.volumes.VolumeCache
    people : Retrainings
        Who was tested.
    kind : Modality
        With ``measures``.
    covariates : sequence of str
        Columns of the cohort.
    intensity : str
        Scale of the cache; from ``binding``, the uptake is brought back.
    splits : sequence of mapping
        Fields of `models.training.splits.Split`: who was trained on, and who validated alone.
    """
    assert kind.measures is not None
    judged = set(people.keys)
    table = cohort.assign(key=prediction_keys(cohort))
    table["tested"] = [key in judged for key in table["key"]]
    table = table.sort_values("tested", ascending=False, kind="stable")
    table = table.drop_duplicates("participant_id")
    roles = _given(splits)
    table["subset"] = [
        TEST if row.tested else roles.get(str(row.participant_id).removeprefix("sub-"), "")
        for row in table.itertuples()
    ]
    table = table[table["subset"] != ""].reset_index(drop=True)
    return Measured(
        names=list(table["participant_id"]),
        positive=table["positive"].to_numpy(bool),
        subset=table["subset"].to_numpy(str),
        measures=pd.DataFrame([kind.measures(path) for path in table["image"]]),
        covariates=table[list(covariates)],
        volumes=_Images(  # type: ignore[arg-type]
            cache, cache.rows(table["key"]), 1.0 if intensity == "binding" else 0.0
        ),
    )


def _given(splits: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Participant to "training", or to "validation" where no network learnt from the person."""
    found: dict[str, str] = {}
    for role, subset in (("validation", VALIDATION), ("train", TRAINING)):
        for split in splits:
            found |= {who: subset for who, has in split["roles"].items() if has == role}
    return {who.removeprefix("sub-"): subset for who, subset in found.items()}


def add_follow_up(
    sheet: Sheet,
    labels: np.ndarray,
    clusters: pd.DataFrame,
    measured: Measured,
    classes: tuple[str, str],
    seed: int,
) -> None:
    """Tables and figures of the uptake in every cluster.

    Parameters
    ----------
    labels, clusters
        Of `pipelines.analytics.add_clusters`.
    measured : Measured
    classes : tuple of str
        Negative and positive.
    """
    from pipelines.charts import uptake_groups, uptake_scatter

    if clusters.empty:
        sheet.missing.append("follow-up of the clusters: there is none.")
        return
    names = [str(name) for name in clusters["name"]]
    values = [cluster_means(one, labels, len(names)) for one in measured.volumes]
    uptake = pd.DataFrame(values, columns=names)
    leading = str(measured.measures.columns[0])
    negative, positive = classes
    facts = {
        "PositiveClass": positive,
        "Subsets": {
            part: int((measured.subset == part).sum()) for part in (TRAINING, VALIDATION, TEST)
        },
        "Caution": NOT_NEW,
    }
    compared = compare(uptake, measured.positive, measured.subset)
    sheet.table(compared, facts | _said("compared between the classes"), desc="uptake")
    groups = {
        "everybody": np.ones(len(uptake), bool),
        positive: measured.positive,
        negative: ~measured.positive,
    }
    related = correlate(uptake, measured.measures[leading].to_numpy(float), groups, seed)
    said = _said(f"correlated with the {leading}") | {"Measure": leading}
    sheet.table(related, facts | said, desc="uptakeCorrelation")
    people = pd.concat([measured.measures, uptake.round(5)], axis=1)
    people.insert(0, "participant_id", measured.names)
    people.insert(1, "label", np.where(measured.positive, positive, negative))
    people.insert(2, "subset", measured.subset)
    sheet.table(people, facts | _said("of every person, and the measures"), desc="uptakePeople")
    checked = balance(measured.covariates, measured.positive, measured.subset)
    what = {"Description": "Covariates by subset and class: analysis of variance, type III"}
    sheet.table(checked, facts | what, desc="balance")
    shown = _telling(compared)
    told = pd.concat([people[people["subset"] == part] for part in DRAWN])
    sheet.figure(uptake_groups(told, compared, shown, classes), desc="uptake")
    drawn = uptake_scatter(people, related, shown, leading, classes)
    sheet.figure(drawn, desc="uptakeCorrelation")


def _said(what: str) -> dict[str, str]:
    return {"Description": f"Mean uptake in the clusters of largest difference, {what}"}


def _telling(compared: pd.DataFrame) -> list[str]:
    """The clusters that tell the classes apart best, in training people where there are any."""
    training = compared[compared["subset"] == TRAINING]
    first = training if len(training) else compared[compared["subset"] == TEST]
    order = (first["auc"] - 0.5).abs().sort_values(ascending=False, kind="stable").index
    return list(first.loc[order, "cluster"].head(SHOWN))
