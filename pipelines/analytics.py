"""Analytics of attributions as derivatives: rankings, maps of outcomes, clusters, fingerprints.

What a cohort or a training cannot give (nobody called wrong, one training only) is left out, and
the sidecars say so in ``NotComputed``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import nibabel as nib
import numpy as np
import pandas as pd

from models.contrasts import contrast, difference_clusters, group_means
from models.errors import InputError
from models.rankings import Metric, group_values, person_values, ranking
from models.region_cube import RegionCube
from pipelines.choices import CONFIDENT, DRAWS, PERCENTILE, SHARED_TOP, TOP
from pipelines.derivatives import grid_sidecar, label, relative_path, write_table
from pipelines.heatmaps import HeatmapNames, Products, Regions
from pipelines.images import write_nifti
from pipelines.retrainings import FoldMaps, Retrainings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

# By what is asked for: the metric of the table of sums, plain or absolute.
_METRICS: dict[str, Metric] = {
    "sum": "sum",
    "absolute": "sum",
    "density": "density",
    "gain": "gain",
}

ONE_TRAINING = (
    "There is one training: how much the numbers change from training to training is unknown, "
    "and intervals are over people only."
)
SHARED_NETWORK = (
    "People of one test fold share a network; the intervals do not take that into account."
)


@dataclass(frozen=True, eq=False)
class Sheet:
    """Where the results of a method or a model are written, and what they have in common.

    Parameters
    ----------
    folder : Path
        The node's folder.
    names : HeatmapNames
    method : str
        Label of the attribution; "" for results over all methods.
    facts : mapping
        Part of every sidecar.
    missing : list of str
        Sentences about what could not be computed.
    products : dict
        What was written.
    """

    folder: Path
    names: HeatmapNames
    method: str
    facts: Mapping[str, Any]
    missing: list[str] = field(default_factory=list)
    products: Products = field(default_factory=dict)

    def entities(self, **more: str) -> dict[str, str]:
        """Entities of a table or a figure."""
        return self.names.entities(self.method, **more)

    def attempt(self, what: str, make: Callable[..., T], *given: Any, **options: Any) -> T | None:
        """Result of ``make``; None, and a sentence, where the data do not allow it."""
        try:
            return make(*given, **options)
        except InputError as error:
            self.missing.append(f"{what}: {error}")
            return None

    def table(self, table: pd.DataFrame, facts: Mapping[str, Any], **more: str) -> None:
        """Add a table."""
        path = relative_path(more.pop("suffix", "heatmap"), ".tsv", self.entities(**more))
        write_table(self._file(path), table)
        self._add(path, facts)

    def image(self, values: np.ndarray, facts: Mapping[str, Any], **more: str) -> nib.Nifti1Image:
        """Add a map on the grid; (voxels,) or (x, y, z)."""
        grid = self.names.grid
        suffix = more.pop("suffix", "heatmap")
        path = relative_path(suffix, ".nii.gz", self.entities(res=grid.name, **more))
        volume = values.reshape(grid.shape)
        sides = {"ipsilateral": self.names.ipsilateral}
        made = write_nifti(self._file(path), volume, grid.affine, template=True, **sides)
        self._add(path, {"SkullStripped": True, **grid_sidecar(grid), **facts})
        return made

    def figure(self, figure: "Figure", **more: str) -> None:
        """Add a picture."""
        from pipelines.figures import save

        name = Path(relative_path("heatmap", ".png", self.entities(**more))).name
        save(figure, self.folder / name)
        file = str(self.folder / name)
        self.products[f"group/figures/{name}"] = {"file": file, "sidecar": None}

    def _file(self, path: str) -> Path:
        return self.folder / Path(path).name

    def _add(self, path: str, facts: Mapping[str, Any]) -> None:
        sidecar = {**self.facts, **facts}
        self.products[path] = {"file": str(self._file(path)), "sidecar": sidecar}


# ---- Rankings --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ranked:
    """What is ranked of a cohort: the groups, the sums of relevance and whether they have signs.

    Parameters
    ----------
    people : Retrainings
    cube : RegionCube
    absolute : RegionCube
        Sums of absolute relevance.
    classes : tuple of str
        Negative and positive.
    seed : int
    """

    people: Retrainings
    cube: RegionCube
    absolute: RegionCube
    classes: tuple[str, str]
    seed: int

    @property
    def signed(self) -> bool:
        """Whether relevance speaks against the class anywhere; then its magnitude is ranked."""
        return bool((self.cube.sums < 0).any())

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Patients and controls, by the names of their classes, patients first."""
        negative, positive = self.classes
        return {positive: self.people.positive, negative: ~self.people.positive}

    @property
    def asked(self) -> list[tuple[str, str, np.ndarray, np.ndarray | None]]:
        """Metric, group, its members and, for gain, the controls."""
        outcomes, controls = self.people.outcomes, ~self.people.positive
        each: list[tuple[str, str, np.ndarray, np.ndarray | None]] = [
            (metric, name, members, None)
            for metric in ("sum", "absolute", "density")
            for name, members in self.groups.items()
            if metric != "absolute" or self.signed
        ]
        return [
            *each,
            ("gain", self.classes[1], self.people.positive, controls),
            ("gain", "TP", outcomes["TP"], outcomes["TN"]),
        ]

    def merged(self) -> "Ranked":
        """The same with left and right joined."""
        joined = self.cube.merged_sides(), self.absolute.merged_sides()
        return Ranked(self.people, *joined, self.classes, self.seed)

    def rank(self, metric: str, members: np.ndarray, controls: np.ndarray | None) -> pd.DataFrame:
        """One ranking with intervals; see `models.rankings.ranking`."""
        return ranking(
            self.absolute if self._of_magnitudes(metric) else self.cube,
            _METRICS[metric],
            members,
            controls,
            strata=self.people.positive,
            signed=self.signed,
            top=TOP,
            draws=DRAWS,
            seed=self.seed,
        )

    def _of_magnitudes(self, metric: str) -> bool:
        """Whether absolute relevance is summed: sums of both signs near zero have no gain."""
        return metric == "absolute" or (metric == "gain" and self.signed)

    def table(self, sheet: Sheet) -> pd.DataFrame:
        """All rankings below each other, with their metric and group."""
        tables = []
        for metric, group, members, controls in self.asked:
            found = sheet.attempt(f"{metric} of {group}", self.rank, metric, members, controls)
            if found is not None:
                found.insert(0, "metric", metric)
                found.insert(1, "group", group)
                tables.append(found)
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def add_rankings(sheet: Sheet, ranked: Ranked, regions: Regions) -> None:
    """Tables of both hemispheres apart and joined; the figure is of them joined."""
    from pipelines.charts import region_intervals

    atlas = label(regions.atlas.name)
    facts, shown = _ranking_facts(ranked) | regions.sidecar, None
    for desc, one in (("ranking", ranked), ("rankingMerged", ranked.merged())):
        table = one.table(sheet)
        sides = {"Sides": "joined" if one is not ranked else "apart"}
        if len(table):
            sheet.table(table, facts | sides, atlas=atlas, desc=desc)
            shown = _shown(one, table)
    if shown is not None:
        drawn = region_intervals(*shown, TOP, measure="sum")
        sheet.figure(drawn, atlas=atlas, desc="rankingMerged")


def _shown(ranked: Ranked, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Rankings by sum, and every person's sum in the regions at the top of the patients'."""
    sums = table[table["metric"] == "sum"]
    if sums.empty:
        return None
    groups = {name: one for name, one in ranked.groups.items() if name in set(sums["group"])}
    first = next(iter(groups))
    top = sums.loc[sums["group"] == first, "index"].head(TOP)
    return sums, person_values(ranked.cube, "sum", groups, list(top))


def _ranking_facts(ranked: Ranked) -> dict[str, Any]:
    return {
        "Description": "Regions ranked by the relevance of a group's out-of-fold maps",
        "RankedBy": "magnitude" if ranked.signed else "value",
        "Top": TOP,
        "Intervals": "95 % percentile bootstrap over people (within class) and trainings",
        "Draws": DRAWS,
        "Seed": ranked.seed,
        "Metrics": {
            "sum": "mean sum of relevance over the region",
            "absolute": "mean sum of absolute relevance over the region",
            "density": "mean relevance per voxel",
            "gain": "mean sum over the controls' mean sum; of TP over that of TN"
            + "; of absolute relevance, as there are both signs" * ranked.signed,
        },
    }


# ---- Maps ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Brain:
    """Anatomy of the cohort on the grid: what maps are drawn on, and where they are clustered.

    Clusters may reach into ``excluded``, but its voxels do not count for their percentile.
    """

    background: nib.Nifti1Image
    mask: np.ndarray
    excluded: np.ndarray | None = None


def outcome_means(
    people: Retrainings, maps: Sequence[FoldMaps]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Mean map (repeats, voxels) of every outcome that somebody has, and those nobody has."""
    present = {name: one for name, one in people.outcomes.items() if one.any()}
    return group_means(_arrays(maps), present), [
        one for one in people.outcomes if one not in present
    ]


def _arrays(maps: Sequence[FoldMaps]) -> list[np.ndarray]:
    """Maps as what `group_means` reads of arrays: their shape and slices of rows."""
    return cast(list[np.ndarray], maps)


def add_outcomes(
    sheet: Sheet, means: Mapping[str, np.ndarray], people: Retrainings, brain: Brain
) -> None:
    """Mean maps of TP, FP, TN and FN, their spread over trainings, and one figure of all."""
    from pipelines.figures import overlay_limits, plot_rows

    shown: dict[str, nib.Nifti1Image] = {}
    for name, per_repeat in means.items():
        mean, sd = contrast(per_repeat, np.zeros(1))  # against nothing
        counts = people.outcomes[name].sum(axis=1).tolist()
        facts = {"Outcome": name, "PeoplePerTraining": counts}
        made = _mean_and_spread(sheet, mean, sd, facts, f"out-of-fold maps of {name}", outcome=name)
        shown[f"{name}: {_amount(counts)}"] = made
    values = np.concatenate([np.asarray(one.dataobj).ravel() for one in shown.values()])
    drawn = plot_rows(
        brain.background, shown, overlay_range=overlay_limits(values), units="relevance"
    )
    sheet.figure(drawn, outcome="all", stat="mean")


def _amount(counts: Sequence[int]) -> str:
    """How many people: "12 people", or "10 to 13 people" where trainings differ."""
    low, high = min(counts), max(counts)
    people = "person" if high == 1 else "people"
    return f"{low} {people}" if low == high else f"{low} to {high} {people}"


def _mean_and_spread(
    sheet: Sheet,
    mean: np.ndarray,
    sd: np.ndarray,
    facts: Mapping[str, Any],
    what: str,
    **entities: str,
) -> nib.Nifti1Image:
    made = sheet.image(mean, {"Description": f"Mean over {what}", **facts}, stat="mean", **entities)
    if np.isfinite(sd).any():
        said = {"Description": f"Standard deviation over trainings of the mean over {what}"}
        sheet.image(np.nan_to_num(sd), said | dict(facts), stat="std", **entities)
    return made


def add_contrast(
    sheet: Sheet,
    maps: Sequence[FoldMaps],
    people: Retrainings,
    classes: tuple[str, str],
    brain: Brain,
) -> None:
    """Mean map of patients less that of controls, and its spread over trainings."""
    from pipelines.figures import plot_slices

    negative, positive = classes
    tested = people.tested
    groups = {"patients": people.positive & tested, "controls": ~people.positive & tested}
    means = group_means(_arrays(maps), groups)
    mean, sd = contrast(means["patients"], means["controls"])
    name = _contrast(classes)
    facts = {"Contrast": f"{positive} - {negative}"}
    what = f"{positive} less mean over {negative}"
    made = _mean_and_spread(sheet, mean, sd, facts, what, contrast=name)
    drawn = plot_slices(
        brain.background, made, title=f"mean of {positive} − mean of {negative}", units="relevance"
    )
    sheet.figure(drawn, contrast=name, stat="mean")


def _contrast(classes: tuple[str, str]) -> str:
    return "Minus".join(map(label, reversed(classes)))


def add_clusters(
    sheet: Sheet,
    means: Mapping[str, np.ndarray],
    classes: tuple[str, str],
    brain: Brain,
    regions: Regions,
    min_mm3: float = 0.0,
) -> tuple[np.ndarray, pd.DataFrame] | None:
    """Where correctly classified patients and controls differ most, as labels and a table.

    Returns both; None where nobody of a class was correct.
    """
    from pipelines.figures import plot_slices

    if not {"TP", "TN"} <= set(means):
        sheet.missing.append("clusters: nobody of one class was classified correctly.")
        return None
    difference = means["TP"] - means["TN"]
    difference = difference[np.isfinite(difference).all(axis=1)]
    if not len(difference):
        sheet.missing.append("clusters: in no training were people of both classes correct.")
        return None
    grid = sheet.names.grid
    labels, table = difference_clusters(
        difference.reshape(-1, *grid.shape),
        brain.mask,
        grid.affine,
        brain.excluded,
        inside_excluded=True,
        atlas=regions.labels,
        names=regions.atlas.labels,
        percentile=PERCENTILE,
        min_mm3=min_mm3,
    )
    named = {"outcome": "correct", "contrast": _contrast(classes), "desc": f"P{PERCENTILE:g}"}
    negative, positive = classes
    facts = {
        "Description": f"Where the mean map of correctly classified {positive} exceeds that of "
        f"correctly classified {negative} most",
        "Contrast": f"{positive} - {negative}",
        "Percentile": PERCENTILE,
        "MinClusterMm3": min_mm3,
        "ExcludedVoxels": 0 if brain.excluded is None else int(brain.excluded.sum()),
        **regions.sidecar,
    }
    sheet.image(labels, facts, suffix="dseg", **named)
    # The same name as the labels', so that both together can be used as an atlas.
    sheet.table(table, facts, suffix="dseg", res=grid.name, **named)
    kept = np.where(labels > 0, difference.mean(axis=0).reshape(grid.shape), 0).astype(np.float32)
    drawn = plot_slices(
        brain.background,
        nib.Nifti1Image(kept, grid.affine),
        contour=_outline(brain, grid.affine),
        title=f"correct {positive} − correct {negative}, above the {PERCENTILE:g}th percentile",
        units="relevance",
    )
    sheet.figure(drawn, **named)
    return labels, table


def _outline(brain: Brain, affine: np.ndarray) -> nib.Nifti1Image | None:
    """The excluded region, to be drawn around."""
    if brain.excluded is None or not brain.excluded.any():
        return None
    return nib.Nifti1Image(brain.excluded.astype(np.float32), affine)


# ---- Between trainings -----------------------------------------------------------------------

DISTANCES = ["outcome", "mean", "sd", "low", "high"]


def training_distances(sheet: Sheet, means: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """L2 distance between the trainings' mean maps, each over its maximum, TP and TN apart."""
    rows = []
    for name in ("TP", "TN"):
        maps = means.get(name, np.empty((0, 1)))
        maps = maps[np.isfinite(maps).all(axis=1)]
        found = sheet.attempt(f"distance between trainings, {name}", _apart, maps)
        if found is not None:
            # With few trainings, Student's interval reaches below what a distance can be.
            rows.append({"outcome": name, **vars(found), "low": float(np.maximum(found.low, 0))})
    return pd.DataFrame(rows, columns=DISTANCES)


def _apart(maps: np.ndarray) -> Any:
    from models.similarity import map_distances, over_pairs

    return over_pairs(map_distances(maps) if len(maps) > 1 else np.zeros((len(maps),) * 2))


# ---- Fingerprints ----------------------------------------------------------------------------


def add_fingerprints(sheet: Sheet, ranked: Ranked, regions: Regions) -> None:
    """Cosine distances between patients' densities, and the two who differ most."""
    from models.similarity import most_distant_pair
    from pipelines.charts import region_ranking

    patients = np.flatnonzero(ranked.people.positive)
    atlas, names = label(regions.atlas.name), np.array(ranked.people.names)[patients]
    densities = ranked.cube.density[:, patients]
    scores = ranked.people.probability[:, patients]
    distances = _mean_distances(densities)
    pair = sheet.attempt("most distant pair", most_distant_pair, densities, scores, CONFIDENT)
    facts = {
        "Description": "Cosine distance between patients' relevance densities, mean over trainings",
        "ScoreAbove": CONFIDENT,
        "MostDistant": None,
        **regions.sidecar,
    }
    if pair is not None:
        two = [str(names[one]) for one in (pair.first, pair.second)]
        facts["MostDistant"] = {
            "People": two,
            "ShareOfTrainings": pair.share,
            **{key.capitalize(): _number(one) for key, one in vars(pair.distance).items()},
        }
        both = densities[:, [pair.first, pair.second]]
        known = np.isfinite(both).sum(axis=0)  # none, where a region has no voxel on the grid
        mean = np.nansum(both, axis=0) / np.where(known, known, np.nan)
        table = ranked.cube.regions.assign(
            **{f"density_{who}": one for who, one in zip(two, mean, strict=True)}
        )
        drawn = region_ranking(table, two, TOP, measure="density")
        sheet.figure(drawn, atlas=atlas, desc="fingerprints")
    table = pd.DataFrame(distances, columns=names).assign(participant_id=names)
    sheet.table(table[["participant_id", *names]], facts, atlas=atlas, desc="fingerprints")


def _mean_distances(densities: np.ndarray) -> np.ndarray:
    """Cosine distance (people, people), the mean over repeats in which both have a map."""
    from models.similarity import cosine_distances

    mapped = np.isfinite(densities).any(axis=2)
    usable = np.isfinite(densities[mapped]).all(axis=0)
    known = np.stack([cosine_distances(one[:, usable]) for one in densities])
    counted = np.isfinite(known)
    total = np.where(counted, known, 0.0).sum(axis=0)
    count = counted.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _number(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None


# ---- Volumes ---------------------------------------------------------------------------------


def add_volumes(
    sheet: Sheet, ranked: Ranked, regions: Regions, measures: Mapping[str, pd.Series]
) -> None:
    """Correlate regions' relevance with a measure of the same people, over true positives.

    Parameters
    ----------
    measures : mapping of str to pandas.Series
        Name of a region, sides joined, to the column of (people,) volumes; NaN where not known.
    """
    from models.association import correlation

    merged = ranked.merged().cube
    place = {str(name): i for i, name in enumerate(merged.regions["name"])}
    rows = []
    for region, volume in measures.items():
        if region not in place:
            sheet.missing.append(f"volume of {region}: no such region, sides joined, in the atlas.")
            continue
        found = sheet.attempt(
            f"volume of {region}",
            correlation,
            merged.sums[:, :, place[region]],
            volume.to_numpy(float),
            ranked.people.outcomes["TP"],
            seed=ranked.seed,
        )
        if found is not None:
            rows.append({"region": region, "column": volume.name, "group": "TP", **vars(found)})
    if rows:
        facts = {"Description": "Correlation of a region's relevance with its volume"}
        atlas = label(regions.atlas.name)
        sheet.table(pd.DataFrame(rows), facts | regions.sidecar, atlas=atlas, desc="volumes")


# ---- Between methods -------------------------------------------------------------------------


def overlaps(
    sheet: Sheet, cubes: Mapping[str, tuple[RegionCube, RegionCube]], people: Retrainings
) -> pd.DataFrame:
    """Share of the top 10 regions that two methods, or two trainings of one method, have in common.

    Parameters
    ----------
    cubes : mapping of str to tuple of RegionCube
        For every method the sums of relevance, and those of absolute relevance.

    Returns
    -------
    pandas.DataFrame
        metric, outcome, first, second, mean, sd, low, high. Where first is second, it is the
        overlap between trainings.
    """
    tables = []
    for metric in ("sum", "absolute", "density"):
        for outcome in ("TP", "TN"):
            members = people.outcomes[outcome]
            some = members.any(axis=1)
            values = sheet.attempt(f"overlap, {outcome}", _values, cubes, metric, members, some)
            if values is None:
                continue
            tables += [
                found.assign(metric=metric, outcome=outcome)
                for found in _overlap_tables(sheet, values, list(cubes), outcome)
            ]
    columns = ["metric", "outcome", "first", "second", "mean", "sd", "low", "high"]
    if not tables:
        return pd.DataFrame(columns=columns)
    joined = pd.concat(tables, ignore_index=True)[columns]
    # With two or three trainings, Student's interval of a share reaches beyond what a share can be.
    return joined.assign(low=joined["low"].clip(0, 1), high=joined["high"].clip(0, 1))


def _values(cubes, metric, members, some) -> np.ndarray:
    """(repeats, methods, regions) that the regions are ordered by."""
    found = []
    for plain, absolute in cubes.values():
        cube = absolute if metric == "absolute" else plain
        values = group_values(cube, _METRICS[metric], members)[some]
        found.append(np.abs(values) if (cube.sums < 0).any() else values)
    return np.stack(found, axis=1)


def _overlap_tables(
    sheet: Sheet, values: np.ndarray, names: Sequence[str], outcome: str
) -> Iterable[pd.DataFrame]:
    from models.similarity import coherence, overlap_between

    between = sheet.attempt(f"overlap, {outcome}", overlap_between, values, names, SHARED_TOP)
    own = sheet.attempt(
        f"overlap between trainings, {outcome}", coherence, values, names, SHARED_TOP
    )
    if between is not None and len(between):
        yield between
    if own is not None:
        yield own.rename(columns={"name": "first"}).assign(second=own["name"])
