"""Tables for pages, and the templates that pages are made with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from bidsapp.report import wording
from pipelines.derivatives import write_text

LIMITS = (
    "BrainWhy is research software. It is not a medical device, and nothing on this page is a "
    "diagnosis or fit to support one."
)
HEATMAPS = (
    "A heatmap shows what the network used for its answer. It does not show where disease is: a "
    "network may use age, head size or the scanner, and may ignore tissue that is ill."
)


@dataclass(frozen=True)
class Link:
    """A cell that leads to another page."""

    text: str
    href: str


@dataclass(frozen=True)
class Statement:
    """One sentence of a summary.

    Attributes
    ----------
    text
        The sentence.
    kind
        `plain`, `good`, or `attention` for what must be looked at.
    """

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Table:
    """A table of texts; `numeric` says which columns are aligned as numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    numeric: Sequence[bool]
    marked: Sequence[bool] = ()


def table_of(
    frame: pd.DataFrame,
    caption: str,
    *,
    titles: Mapping[str, str] | None = None,
    marked: Sequence[bool] = (),
) -> Table:
    """Write a data frame for reading.

    Parameters
    ----------
    frame
        Rows to show, in order.
    caption
        What they are.
    titles
        Headings of columns; others are made from the columns' names.
    marked
        Rows to highlight.
    """
    named = titles or {}
    columns = [named.get(str(one), wording.title(str(one))) for one in frame]
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    written = [_column(frame.iloc[:, k]) for k in range(frame.shape[1])]
    return Table(caption, columns, list(zip(*written, strict=True)), numeric, list(marked))


def _column(values: pd.Series) -> Sequence[str | Link]:
    if pd.api.types.is_numeric_dtype(values.dtype):
        return wording.column(_plain(cell) for cell in values)
    return [cell if isinstance(cell, Link) else wording.number(_plain(cell)) for cell in values]


def _plain(cell: Any) -> Any:
    """Cell as a Python number where it is one."""
    if not isinstance(cell, str | bool) and pd.isna(cell):
        return None
    return cell.item() if hasattr(cell, "item") else cell


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bidsapp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = wording.number
    environment.filters["capital"] = wording.capital
    return environment


def write(template: str, path: Path, **content: Any) -> Path:
    """Fill a template and replace the page at `path` in one step."""
    write_text(path, _environment().get_template(template).render(limits=LIMITS, **content))
    return path
