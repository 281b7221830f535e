"""Compared variants side by side: classifiers on the same people, maps, regions, lesions."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from models.regions import merge_sides
from pipelines.baselines import titles
from pipelines.derivatives import label, read_sidecar, read_table

# What `[training.transfer]` leaves beside a variant's own maps: desc, and the words for it.
BEFORE = {"untrained": "untrained", "source": "source"}
LESIONS = (
    *("lesion_coverage", "lesion_relevance", "lesion_relevance_untrained"),
    *("auc", "auc_untrained", "top_share", "top_share_untrained"),
)
METRICS = ("balanced_accuracy", "sensitivity", "specificity", "roc_auc")


def classifiers(output_dir: Path, scores: pd.DataFrame, models: Mapping[str, str]) -> pd.DataFrame:
    """Baselines and networks below each other, as in table 3 of Eitel et al. 2019.

    Parameters
    ----------
    output_dir : Path
    scores : DataFrame
        variant, metric, value: of every training of every variant.
    models : mapping of str to str
        Variant to the label of its model, in order.

    Returns
    -------
    DataFrame
        classifier, trainings, and the means of `METRICS`. Baselines are fitted once in the same
        folds, and stand once, from the first variant that has them; their images are that one's.
    """
    rows = []
    for variant in models:
        mine = scores[scores["variant"].astype(str) == variant]
        means = mine.groupby("metric")["value"].mean()
        trainings = int(mine.groupby("metric").size().max()) if len(mine) else 0
        rows.append({"classifier": f"network, {variant}", "trainings": trainings} | _chosen(means))
    for variant, model in models.items():
        path = output_dir / f"group/model-{model}_desc-baselines_metrics.tsv"
        if path.exists():
            return pd.DataFrame([*_baselines(path, variant), *rows])
    return pd.DataFrame(rows)


def _baselines(path: Path, variant: str) -> list[dict[str, object]]:
    """Rows of the baselines of one variant."""
    table = read_table(path)
    names = [one for one in dict.fromkeys(table["classifier"]) if one != "network"]
    words, rows = titles(names), []
    for name in names:
        values = table[table["classifier"] == name].set_index("metric")["value"]
        said = f"{words.get(name, name)}, images of {variant}"
        rows.append({"classifier": said, "trainings": 1} | _chosen(values))
    return rows


def _chosen(values: pd.Series) -> dict[str, float]:
    return {name: float(values.get(name, float("nan"))) for name in METRICS}


def regions(output_dir: Path, models: Mapping[str, str], positive: str) -> pd.DataFrame:
    """Mean relevance per voxel of the patients in every region, a column per variant.

    With variants of images with and without lesions this is figure 7 of Eitel et al. 2019, with
    networks from scratch and pre-trained the table behind their figure 6.

    Returns
    -------
    DataFrame
        method, atlas, name (sides joined), then one column per variant, before them ``untrained``
        and ``source`` of the first variant that was trained further; without rows where no two
        variants have a table of the same method and atlas.
    """
    found: dict[tuple[str, str], dict[str, pd.Series]] = {}
    before: dict[tuple[str, str], dict[str, pd.Series]] = {}
    for variant, model in models.items():
        for path in _of_model(output_dir, model, positive, "method-*_atlas-*_heatmap.tsv"):
            parts = entities(path)
            key, table = (parts["method"], parts["atlas"]), read_table(path)
            if parts.get("desc") == "transfer":
                before.setdefault(key, _before(table))
            if "desc" in parts or f"density_{positive}" not in table:
                continue
            one = table.rename(columns={f"sum_{positive}": "sum", f"density_{positive}": "density"})
            joined = merge_sides(one[["index", "name", "voxels", "sum", "density"]])
            found.setdefault(key, {})[variant] = joined.set_index("name")["density"]
    tables = [
        pd.DataFrame(before.get(key, {}) | columns).assign(method=key[0], atlas=key[1])
        for key, columns in found.items()
        if len(columns) > 1
    ]
    leading = ["method", "atlas", "name"]
    if not tables:
        return pd.DataFrame(columns=leading)
    every = pd.concat([one.rename_axis("name").reset_index() for one in tables], ignore_index=True)
    return every[[*leading, *(one for one in (*BEFORE.values(), *models) if one in every)]]


def _before(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Density per region before transfer, sides joined already."""
    by_name = table.set_index("name")
    return {
        words: by_name[f"density_{desc}"]
        for desc, words in BEFORE.items()
        if f"density_{desc}" in by_name
    }


def maps(output_dir: Path, models: Mapping[str, str], positive: str) -> dict[str, dict[str, Path]]:
    """Mean maps of the patients, to be drawn below each other (figures 6 and 7 of Eitel 2019).

    Returns
    -------
    dict
        Method to heading to file: of every variant, above them of the untrained network and of
        the source of the first variant that was trained further. Only methods of two variants or
        more, with maps in one space.
    """
    found: dict[str, dict[str, Path]] = {}
    before: dict[str, dict[str, Path]] = {}
    for variant, model in models.items():
        for path in _of_model(output_dir, model, positive, "*_stat-mean_*_heatmap.nii.gz"):
            parts = entities(path)
            method, desc = parts["method"], parts.get("desc", "")
            if desc in BEFORE:
                before.setdefault(method, {}).setdefault(BEFORE[desc], path)
            if desc == label(positive):
                found.setdefault(method, {})[f"network, {variant}"] = path
    both = {
        method: {words: before[method][words] for words in BEFORE.values()} | own
        if len(before.get(method, {})) == len(BEFORE)
        else own
        for method, own in found.items()
        if len(own) > 1
    }
    return {method: own for method, own in both.items() if _one_space(own.values())}


def _one_space(paths: Iterable[Path]) -> bool:
    return len({entities(path)["space"] for path in paths}) == 1


def _of_model(output_dir: Path, model: str, positive: str, ending: str) -> list[Path]:
    pattern = f"group/*_model-{model}_target-{label(positive)}_{ending}"
    return sorted(output_dir.glob(pattern))


def entities(path: Path) -> dict[str, str]:
    """The key-value pairs of a file's name."""
    parts = path.name.split(".")[0].split("_")
    return dict(part.split("-", 1) for part in parts if "-" in part)


def lesions(output_dir: Path, models: Mapping[str, str], positive: str) -> pd.DataFrame:
    """Patients' means of what lesions get, by variant and method.

    Returns
    -------
    DataFrame
        variant, method, patients (with a mask, be it empty: the means are theirs) and those of
        `LESIONS` that are known; no rows without lesions.
    """
    rows = []
    for variant, model in models.items():
        for path in _of_model(output_dir, model, positive, "method-*_desc-lesions_heatmap.tsv"):
            means = read_sidecar(path).get("Means", {}).get(positive, {})
            table = read_table(path)
            having = table["label"].eq(positive) & table["lesion_voxels"].notna()
            patients = table.loc[having, "participant_id"].nunique()
            row = {"variant": variant, "method": entities(path)["method"], "patients": patients}
            rows.append(row | {name: means.get(name) for name in LESIONS})
    return pd.DataFrame(rows, columns=["variant", "method", "patients", *LESIONS])
