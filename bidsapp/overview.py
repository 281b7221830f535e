"""Compared variants in two tables: every classifier on the same people, and the regions of each."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from models.regions import merge_sides
from pipelines.baselines import titles
from pipelines.derivatives import label, read_table

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
        method, atlas, name (sides joined), then one column per variant; without rows where no two
        variants have a table of the same method and atlas.
    """
    found: dict[tuple[str, str], dict[str, pd.Series]] = {}
    for variant, model in models.items():
        pattern = f"group/*_model-{model}_target-{label(positive)}_method-*_atlas-*_heatmap.tsv"
        for path in sorted(output_dir.glob(pattern)):
            parts = dict(part.split("-", 1) for part in path.stem.split("_") if "-" in part)
            table = read_table(path)
            if "desc" in parts or f"density_{positive}" not in table:
                continue
            one = table.rename(columns={f"sum_{positive}": "sum", f"density_{positive}": "density"})
            joined = merge_sides(one[["index", "name", "voxels", "sum", "density"]])
            key = parts["method"], parts["atlas"]
            found.setdefault(key, {})[variant] = joined.set_index("name")["density"]
    tables = [
        pd.DataFrame(columns).reset_index().assign(method=method, atlas=atlas)
        for (method, atlas), columns in found.items()
        if len(columns) > 1
    ]
    leading = ["method", "atlas", "name"]
    if not tables:
        return pd.DataFrame(columns=leading)
    every = pd.concat(tables, ignore_index=True)
    return every[[*leading, *(one for one in models if one in every)]]
