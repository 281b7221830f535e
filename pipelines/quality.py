"""Quality numbers of the preprocessing: what is far off, and the cohort's table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from pipelines.derivatives import place, read_table, write_table

# A brain with its CSF, from children to large men; beyond, the mask is wrong more often than right.
MASK_ML = (850.0, 2100.0)
LEAST_CORRELATION = 0.6
LEAST_OVERLAP = 0.9
MOST_OUTSIDE_PERCENT = 0.1


def flags_of(row: Mapping[str, Any]) -> list[str]:
    """Plain sentences for numbers that are far off; an empty list is a clean scan.

    Without registration, a brain need not lie where the template does, but within its grid.
    """
    flags = []
    if not MASK_ML[0] <= row["mask_volume_ml"] <= MASK_ML[1]:
        flags.append(f"unusual brain mask volume ({row['mask_volume_ml']:.0f} ml)")
    if row.get("registration") == "none":
        return flags + flags_of_cut(row["brain_outside_percent"])
    # A FLAIR image is not like the T1w template, however well it lies on it.
    if row.get("template_correlation", 1.0) < LEAST_CORRELATION:
        flags.append(f"low correlation with the template ({row['template_correlation']:.2f})")
    if row["template_overlap"] < LEAST_OVERLAP:
        flags.append(f"brain does not cover the template (Dice {row['template_overlap']:.2f})")
    return flags


def flags_of_cut(percent: float, grid: str = "") -> list[str]:
    """A sentence where a grid cuts the brain."""
    if percent <= MOST_OUTSIDE_PERCENT:
        return []
    return [f"{percent:.1f} % of the brain lies outside of the grid{f' {grid}' if grid else ''}"]


def write_group_quality(
    output_dir: Path, work_dir: Path, tables: Sequence[Path], registration: str
) -> None:
    """Stack the participants' ``tables`` into ``group/qc.tsv``, and draw them.

    Parameters
    ----------
    tables : sequence of Path
        Of every registration that is on disk.
    registration : str
        The recipe's. People are drawn as it brought them to the template; where there are others,
        they are drawn beside it.
    """
    from pipelines.charts import qc_by_registration, qc_scatter
    from pipelines.figures import save

    if not tables:
        return
    cohort = pd.concat([read_table(path) for path in tables], ignore_index=True)
    cohort = cohort[sorted(cohort, key=lambda name: name == "flags")]  # the words last
    write_table(output_dir / "group/qc.tsv", cohort)
    several = "registration" in cohort and cohort["registration"].nunique() > 1
    own = cohort[cohort["registration"] == registration] if several else cohort
    figures = output_dir / "group/figures"
    with TemporaryDirectory(dir=work_dir) as mine:  # group levels of two models may be at it
        place(save(qc_scatter(own), Path(mine) / "qc.png"), figures / "qc.png")
        (figures / "qcregistrations.png").unlink(missing_ok=True)
        if several:
            drawn = save(qc_by_registration(cohort), Path(mine) / "qcregistrations.png")
            place(drawn, figures / "qcregistrations.png")
