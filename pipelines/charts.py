"""Charts of a cohort: performance, regions, learning curves, quality, null distributions.

Every function takes tables or arrays and returns a matplotlib `Figure`; `pipelines.figures.save`
writes it. Nothing touches pyplot's global state.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from pipelines.figures import ACCENT, INK, QUIET

CLASS_COLOURS = ("#c8572f", "#2b6c99", "#8a7a2b", "#7a4f9a")
CLASS_MARKERS = ("o", "s", "^", "D")
VARIANT_COLOURS = ("#9aa5ab", "#8a7a2b", *CLASS_COLOURS[:2], "#7a4f9a", "#2f7f5f")
VARIANT_MARKERS = ("x", "+", *CLASS_MARKERS)

_MEASURES = {
    "sum": "relevance summed over the region (arbitrary units)",
    "density": "relevance per voxel (arbitrary units)",
    "gain": "relevance relative to the controls' mean",
}


def _chart(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    axes = list(np.ravel(figure.subplots(1, panels)))
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(QUIET)
        one.tick_params(colors=INK, labelsize=8.5, length=3, color=QUIET)
        one.xaxis.label.set(color=INK, size=9)
        one.yaxis.label.set(color=INK, size=9)
        one.title.set(color=INK, size=10)
    return figure, axes


def _nothing(axes: Axes, sentence: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, sentence, ha="center", va="center", color=QUIET, size=10, wrap=True)


def _classes(labels: pd.Series, positive: str | None) -> list[str]:
    """Classes in a fixed order, the positive one first."""
    names = sorted(labels.dropna().astype(str).unique())
    return sorted(names, key=lambda name: name != positive)


def roc(predictions: pd.DataFrame, positive: str) -> Figure:
    """Draw the receiver operating characteristic of out-of-fold predictions.

    Parameters
    ----------
    predictions
        One row per person: `label` (class) and `probability` (of `positive`, 0 to 1).
    positive
        The class that a high probability speaks for.
    """
    figure, (axes,) = _chart(4.2, 4.0)
    known = predictions.dropna(subset=["label", "probability"])
    truth = (known["label"].astype(str) == positive).to_numpy()
    if truth.all() or not truth.any():
        _nothing(axes, "A ROC curve needs people of both classes.")
        return figure
    scores = known["probability"].to_numpy(float)
    false_rate, true_rate, _ = roc_curve(truth, scores, drop_intermediate=False)
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls=(0, (4, 3)))
    axes.fill_between(false_rate, true_rate, color=ACCENT, alpha=0.08, lw=0)
    axes.plot(false_rate, true_rate, color=ACCENT, lw=2, solid_joinstyle="round")
    axes.text(0.97, 0.06, f"AUC {roc_auc_score(truth, scores):.2f}", ha="right", size=13, color=INK)
    axes.text(0.62, 0.57, "chance", rotation=45, color=QUIET, size=8, ha="center", va="center")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_xlabel(f"false alarms: people without {positive} called {positive}")
    axes.set_ylabel(f"sensitivity: people with {positive} called {positive}")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def reliability(curve: pd.DataFrame, predictions: pd.DataFrame, positive: str) -> Figure:
    """Draw how often people of a predicted probability are positive.

    Parameters
    ----------
    curve
        Of :func:`models.training.calibration.reliability`.
    predictions
        One row per person: `label` and `probability`; their distribution is drawn below.
    positive
        The class whose probability it is.
    """
    figure, (axes,) = _chart(4.2, 4.0)
    if curve.empty:
        _nothing(axes, "A reliability curve needs predictions.")
        return figure
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls=(0, (4, 3)))
    axes.text(0.3, 0.33, "as it should be", rotation=45, color=QUIET, size=8, ha="center")
    low, high = (curve["observed"] - curve["ci_low"], curve["ci_high"] - curve["observed"])
    axes.errorbar(
        curve["predicted"],
        curve["observed"],
        np.clip([low, high], 0, None),
        color=ACCENT,
        lw=2,
        elinewidth=1,
        capsize=2,
        marker="o",
        ms=5,
    )
    known = predictions["probability"].dropna().to_numpy(float)
    heights, edges = np.histogram(known, bins=20, range=(0, 1))
    tallest = max(int(heights.max()), 1)
    axes.bar(
        *(edges[:-1], 0.12 * heights / tallest, np.diff(edges)),
        bottom=-0.16,
        align="edge",
        color=QUIET,
        alpha=0.5,
    )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.17, 1.02), aspect="equal")
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel(f"probability of {positive} (bars: people)")
    axes.set_ylabel(f"share that is {positive}")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def confusion(table: pd.DataFrame) -> Figure:
    """Draw a confusion matrix.

    Parameters
    ----------
    table
        First column `label` (true class), one column of counts per predicted class.
    """
    figure, (axes,) = _chart(3.8, 3.4)
    counts = table.set_index(table.columns[0]).astype(float)
    share = counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0).fillna(0).to_numpy()
    axes.imshow(
        share, cmap=LinearSegmentedColormap.from_list("", ["#f3f6f7", ACCENT]), vmin=0, vmax=1
    )
    for (row, column), part in np.ndenumerate(share):
        ink = "white" if part > 0.55 else INK
        axes.text(
            column,
            row - 0.06,
            f"{counts.iat[row, column]:.0f}",
            ha="center",
            va="center",
            size=18,
            color=ink,
        )
        axes.text(
            column,
            row + 0.24,
            f"{part:.0%} of {counts.index[row]}",
            ha="center",
            va="center",
            size=8,
            color=ink,
        )
    axes.set_xticks(range(counts.shape[1]), counts.columns.astype(str))
    axes.set_yticks(range(counts.shape[0]), counts.index.astype(str))
    axes.set(xlabel="the network's answer", ylabel="true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def region_ranking(
    table: pd.DataFrame,
    classes: Sequence[str] = (),
    top: int = 25,
    *,
    measure: str = "sum",
    title: str | None = None,
) -> Figure:
    """Draw the regions with the most relevance, all classes side by side.

    Parameters
    ----------
    table
        One row per region: `name` and, for every class, `<measure>_<class>`; or, for one person,
        `<measure>` itself.
    classes
        Classes, the one that orders the regions first; empty for a person's table.
    top
        How many regions.
    measure
        `sum`, `density` (mean per voxel) or `gain` (relative to the controls' mean sum).
    """
    wanted = {name: f"{measure}_{name}" for name in classes} or {"": measure}
    columns = {name: column for name, column in wanted.items() if column in table}
    figure, (axes,) = _chart(7.2, 0.7 + 0.21 * min(top, max(len(table), 3)))
    if not columns or table.empty:
        _nothing(axes, f"The table has no column {measure}.")
        return figure
    leading = table[next(iter(columns.values()))].abs()
    best = table.loc[leading.sort_values(ascending=False, kind="stable").index[:top]]
    rows = np.arange(len(best))[::-1]
    values = best[list(columns.values())].to_numpy(float)
    axes.hlines(rows, np.nanmin(values, 1), np.nanmax(values, 1), color="#d5dbde", lw=2, zorder=1)
    for k, name in enumerate(columns):
        axes.scatter(
            values[:, k],
            rows,
            s=26,
            color=CLASS_COLOURS[k % 4] if name else ACCENT,
            marker=CLASS_MARKERS[k % 4],
            label=name,
            zorder=3,
            lw=0,
        )
    axes.axvline(0, color=QUIET, lw=0.8, zorder=0)
    axes.set_yticks(rows, best["name"].astype(str).str.replace("_", " "))
    axes.set(ylim=(-0.7, len(best) - 0.3), title=title or "")
    axes.set_xlabel(_MEASURES.get(measure, measure))
    axes.ticklabel_format(axis="x", scilimits=(-3, 4), useMathText=True)
    axes.grid(axis="x", color="#eef1f2", zorder=0)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if len(columns) > 1:
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def region_intervals(
    rankings: pd.DataFrame, people: pd.DataFrame, top: int = 25, *, measure: str = "sum"
) -> Figure:
    """Draw the regions at the top of a ranking with intervals, and everybody's values.

    Parameters
    ----------
    rankings
        `group index name value low high rank`, one row per group and region; the first group
        orders the regions. See `models.rankings.ranking`.
    people
        `group index value`, one row per person and region; drawn as faint marks.
    top
        How many regions.
    measure
        `sum`, `density` or `gain`.
    """
    groups = list(dict.fromkeys(rankings["group"]))
    leading = rankings[rankings["group"] == groups[0]] if groups else rankings
    best = leading.dropna(subset="rank").sort_values("rank").head(top)
    figure, (axes,) = _chart(7.6, 1.0 + 0.3 * max(len(best), 3))
    if best.empty:
        _nothing(axes, "No region has any relevance.")
        return figure
    rows = pd.Series(np.arange(len(best))[::-1], index=best["index"])
    offsets = np.linspace(0.14, -0.14, len(groups)) if len(groups) > 1 else [0.14]
    for k, (name, offset) in enumerate(zip(groups, offsets, strict=True)):
        group = rankings[(rankings["group"] == name) & rankings["index"].isin(rows.index)]
        own = people[(people["group"] == name) & people["index"].isin(rows.index)]
        _intervals(axes, group, own, rows, offset, (CLASS_COLOURS[k % 4], CLASS_MARKERS[k % 4]))
    shown = rankings[rankings["index"].isin(rows.index)]
    left_out = _robust_limits(axes, people, shown)
    axes.axvline(0, color=QUIET, lw=0.8, zorder=0)
    axes.set_yticks(rows, best["name"].astype(str).str.replace("_", " "))
    axes.set_ylim(-0.7, len(best) - 0.3)
    note = f"; values of single people outside: {left_out}" if left_out else ""
    axes.set_xlabel(_MEASURES.get(measure, measure) + note)
    axes.ticklabel_format(axis="x", scilimits=(-3, 4), useMathText=True)
    axes.grid(axis="x", color="#eef1f2", zorder=0)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _intervals(
    axes: Axes,
    group: pd.DataFrame,
    people: pd.DataFrame,
    rows: pd.Series,
    offset: float,
    look: tuple[str, str],
) -> None:
    """One group's means with intervals, and its people as faint marks."""
    colour, marker = look
    # Beside the bar, which would hide them.
    height = rows.reindex(people["index"]).to_numpy() + 2.2 * offset
    axes.scatter(people["value"], height, s=9, color=colour, alpha=0.35, lw=0, zorder=2)
    y = rows.reindex(group["index"]).to_numpy() + offset
    axes.hlines(y, group["low"], group["high"], color=colour, lw=2, zorder=3)
    name = f"{group['group'].iat[0]}: mean, 95 % interval"
    axes.scatter(
        group["value"], y, s=30, color=colour, marker=marker, zorder=4, lw=0.6, ec="white",
        label=name,
    )  # fmt: skip


def _robust_limits(axes: Axes, people: pd.DataFrame, shown: pd.DataFrame) -> int:
    """Fit the axis to all means and intervals and to nearly all people; how many lie outside."""
    values = people["value"].dropna().to_numpy(float)
    ends = shown[["value", "low", "high"]].to_numpy(float)
    inside = np.append(np.quantile(values, (0.005, 0.995)) if len(values) else [], ends)
    low, high = float(np.nanmin(inside)), float(np.nanmax(inside))
    margin = 0.03 * max(high - low, 1e-12)
    axes.set_xlim(min(low, 0) - margin, max(high, 0) + margin)
    return int(((values < low - margin) | (values > high + margin)).sum())


def overlap_matrix(table: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Draw how many of the top regions methods share, a panel per outcome.

    Parameters
    ----------
    table
        `outcome first second mean`, and `low high` where known; first equal to second is the
        overlap between trainings of one method.
    names
        Methods in order, and what to call them.
    """
    outcomes = list(dict.fromkeys(table["outcome"]))
    count = len(names)
    side = 1.3 + 0.75 * count
    figure, panels = _chart(side * max(len(outcomes), 1) + 1.2, side, max(len(outcomes), 1))
    if not outcomes:
        _nothing(panels[0], "There are no two runs to compare.")
        return figure
    for k, (axes, outcome) in enumerate(zip(panels, outcomes, strict=True)):
        _matrix(axes, table[table["outcome"] == outcome], list(names))
        axes.set_title(outcome)
        ticks, words = range(count), [one.replace(", ", ",\n") for one in names.values()]
        axes.set_xticks(ticks, words, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, words if k == 0 else [""] * count)
    return figure


def _matrix(axes: Axes, table: pd.DataFrame, names: list[str]) -> None:
    place = {name: i for i, name in enumerate(names)}
    share = np.full((len(names), len(names)), np.nan)
    for row in table.itertuples():
        i, j = place[str(row.first)], place[str(row.second)]
        share[i, j] = share[j, i] = row.mean
    colours = LinearSegmentedColormap.from_list("", ["#f3f6f7", ACCENT])
    axes.imshow(np.ma.masked_invalid(share), cmap=colours, vmin=0, vmax=1)
    for (i, j), part in np.ndenumerate(share):
        text = "–" if np.isnan(part) else f"{part:.0%}"
        ink = "white" if part > 0.55 else INK
        axes.text(j, i, text, ha="center", va="center", size=10, color=ink)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def learning_curves(histories: Sequence[pd.DataFrame]) -> Figure:
    """Draw loss and balanced accuracy over epochs, a thin line per fold and a thick mean.

    A fold's line ends with the epoch in which it stopped; a dot is the epoch whose weights were
    kept.

    Parameters
    ----------
    histories
        Per fold: `epoch train_loss validation_loss validation_balanced_accuracy selected`.
    """
    figure, (loss, accuracy) = _chart(7.6, 3.1, panels=2)
    if not len(histories):
        _nothing(loss, "No training history was found.")
        accuracy.set_axis_off()
        return figure
    _curves(loss, histories, "train_loss", QUIET, "training")
    loss.set(xlabel="epoch", ylabel="loss")
    loss.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if all(history["validation_loss"].isna().all() for history in histories):
        _kept(loss, histories, "train_loss", QUIET)
        loss.set_ylim(0, None)
        loss.legend(frameon=False, fontsize=8.5)
        _nothing(accuracy, "Nobody was set aside for validation.")
        return figure
    _curves(loss, histories, "validation_loss", ACCENT, "validation")
    _curves(accuracy, histories, "validation_balanced_accuracy", ACCENT, "validation")
    accuracy.axhline(0.5, color=QUIET, lw=1, ls=(0, (4, 3)))
    accuracy.text(
        0.99,
        0.5,
        "chance",
        color=QUIET,
        size=8,
        ha="right",
        va="bottom",
        transform=accuracy.get_yaxis_transform(),
    )
    _kept(loss, histories, "validation_loss", ACCENT)
    _kept(accuracy, histories, "validation_balanced_accuracy", ACCENT)
    loss.set_ylim(0, None)
    accuracy.set(xlabel="epoch", ylabel="balanced accuracy", ylim=(0, 1.03))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    loss.legend(frameon=False, fontsize=8.5)
    accuracy.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def _curves(
    axes: Axes, histories: Sequence[pd.DataFrame], column: str, colour: str, label: str
) -> None:
    found = [one.set_index("epoch")[column] for one in histories if {"epoch", column} <= set(one)]
    for one in found:
        axes.plot(one.index, one, color=colour, lw=0.8, alpha=0.35)
    if found:
        mean = pd.concat(found, axis=1).mean(axis=1)
        axes.plot(mean.index, mean, color=colour, lw=2.2, label=label)


def _kept(axes: Axes, histories: Sequence[pd.DataFrame], column: str, colour: str) -> None:
    """A dot on each fold's line at the epoch that was kept; the lines end where training did."""
    kept = [one[one["selected"] == 1] for one in histories if "selected" in one]
    if kept:
        dots = pd.concat(kept)
        looks: dict[str, Any] = {"s": 20, "color": colour, "ec": "white", "lw": 0.8, "zorder": 3}
        axes.scatter(dots["epoch"], dots[column], label="epoch kept", **looks)


def probabilities(predictions: pd.DataFrame, positive: str | None = None) -> Figure:
    """Draw every person's probability, in a strip per true class.

    Parameters
    ----------
    predictions
        One row per person: `participant_id label probability predicted`.
    positive
        The class whose probability it is; named on the axis.
    """
    names = _classes(predictions["label"], positive)
    figure, (axes,) = _chart(6.4, 0.9 + 0.85 * max(len(names), 1))
    axes.axvline(0.5, color=QUIET, lw=1, ls=(0, (4, 3)), zorder=0)
    for k, name in enumerate(names):
        group = predictions[predictions["label"].astype(str) == name].sort_values("probability")
        height = len(names) - 1 - k + _swarm(group["probability"].to_numpy(float))
        _strip(axes, group, height, CLASS_COLOURS[k % 4], CLASS_MARKERS[k % 4])
    axes.set_yticks(range(len(names)), names[::-1])
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.55, max(len(names), 1) - 0.4))
    axes.set_xlabel(f"probability of {positive}" if positive else "probability")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=10)
    return figure


def _strip(axes: Axes, group: pd.DataFrame, height: NDArray, colour: str, marker: str) -> None:
    """Dots of one class; those called wrong are hollow and named."""
    chance = group["probability"].to_numpy(float)
    answer = group.get("predicted", group["label"])
    wrong = (answer.astype(str) != group["label"].astype(str)).to_numpy()
    style: dict[str, Any] = {
        "s": 34,
        "marker": marker,
        "zorder": 3,
        "linewidths": 1.3,
        "edgecolors": colour,
    }
    axes.scatter(chance[~wrong], height[~wrong], c=colour, **style)
    axes.scatter(chance[wrong], height[wrong], c="white", **style)
    if "participant_id" in group and wrong.sum() <= 12:
        for k, name in enumerate(group["participant_id"][wrong]):
            # Above and below by turns, so that names of close marks do not run together.
            offset, side = ((0, 6), "bottom") if k % 2 == 0 else ((0, -6), "top")
            axes.annotate(
                str(name),
                (chance[wrong][k], height[wrong][k]),
                offset,
                textcoords="offset points",
                size=7,
                ha="center",
                va=side,
                color=INK,
            )


def _swarm(sorted_values: NDArray, near: float = 0.025, step: float = 0.12) -> NDArray:
    """Vertical offsets that keep dots with close values apart; the same for the same values."""
    offsets = np.zeros(len(sorted_values))
    pattern = np.array([0, 1, -1, 2, -2]) * step
    run = 0
    for k in range(1, len(sorted_values)):
        run = run + 1 if sorted_values[k] - sorted_values[k - 1] < near else 0
        offsets[k] = pattern[run % len(pattern)]
    return offsets


def trainings(scores: pd.DataFrame, order: Sequence[str], key: str) -> Figure:
    """Draw every training of several variants; lines join those on the same split and seed.

    Parameters
    ----------
    scores
        Columns `variant repeat metric value`; balanced accuracy and the ROC area are drawn.
    order
        Variants from left to right.
    key
        What differs between them.
    """
    shown = [one for one in _COMPARED if (scores["metric"] == one).any()]
    figure, axes = _chart(1.6 + 3.1 * max(len(shown), 1), 3.8, max(len(shown), 1))
    if not shown:
        _nothing(axes[0], "No metrics of the trainings were found.")
    for one, metric in zip(axes, shown, strict=False):
        wide = scores[scores["metric"] == metric].pivot_table(
            index="repeat", columns="variant", values="value"
        )[list(order)]
        places = np.arange(len(order))
        one.plot(places, wide.to_numpy().T, color=QUIET, lw=0.7, alpha=0.6, zorder=1)
        for place, name in zip(places, order, strict=True):
            values = wide[name].to_numpy()
            one.scatter(np.full(len(values), place), values, s=18, color=ACCENT, alpha=0.7, lw=0)
        one.scatter(places, wide.mean(), marker="_", s=420, color=INK, lw=2, zorder=3)
        one.axhline(0.5, color=QUIET, lw=0.8, ls=":")
        one.set_xticks(places, [_wrapped_name(str(name)) for name in order])
        one.set(xlim=(-0.5, len(order) - 0.5), ylabel=_COMPARED[metric], xlabel=key)
    return figure


def _wrapped_name(name: str) -> str:
    """A long name in lines, broken at its hyphens, so that neighbours do not meet."""
    return textwrap.fill(name, 14, break_long_words=False)


def region_variants(table: pd.DataFrame, variants: Sequence[str], top: int = 15) -> Figure:
    """Draw the regions that stand out in any variant, a row each and a mark per variant.

    Parameters
    ----------
    table
        One row per region: `name` and a column per variant.
    variants
        Those columns, in order.
    top
        How many regions: those with the largest absolute value in any variant.
    """
    strongest = table[list(variants)].abs().max(axis=1).sort_values(ascending=False, kind="stable")
    best = table.loc[strongest.index[:top]]
    rows = np.arange(len(best))[::-1]
    figure, (axes,) = _chart(8.4, 1.2 + 0.27 * max(len(best), 3))
    values = best[list(variants)].to_numpy(float)
    axes.hlines(rows, np.nanmin(values, 1), np.nanmax(values, 1), color="#d5dbde", lw=2, zorder=1)
    for k, name in enumerate(variants):
        colour, marker = VARIANT_COLOURS[k % 6], VARIANT_MARKERS[k % 6]
        axes.scatter(values[:, k], rows, s=30, color=colour, marker=marker, label=name, zorder=3)
    axes.axvline(0, color=QUIET, lw=0.8, zorder=0)
    axes.set_yticks(rows, best["name"].astype(str).str.replace("_", " "))
    axes.set(ylim=(-0.7, len(best) - 0.3))
    axes.set_xlabel("relevance per voxel, over the largest of each network")
    axes.grid(axis="x", color="#eef1f2", zorder=0)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=3)
    return figure


def lesion_scatter(people: pd.DataFrame) -> Figure:
    """Draw relevance sum against lesion sum; marks grow with lesion relevance.

    Parameters
    ----------
    people
        One row per person: `label lesion_ml relevance_sum lesion_relevance`.
    """
    figure, (axes,) = _chart(5.6, 3.8)
    for number, one in enumerate(_classes(people["label"], None)):
        mine = people[people["label"].astype(str) == one]
        size = 20 + 180 * mine["lesion_relevance"].fillna(0).clip(0, 1).to_numpy(float)
        axes.scatter(
            mine["lesion_ml"].to_numpy(float),
            mine["relevance_sum"].to_numpy(float),
            s=size,
            color=CLASS_COLOURS[number % len(CLASS_COLOURS)],
            marker=CLASS_MARKERS[number % len(CLASS_MARKERS)],
            alpha=0.7,
            lw=0,
            label=one,
        )
    axes.axhline(0, color=QUIET, lw=0.8)
    axes.set(xlabel="lesions (ml, on the network’s grid)", ylabel="sum of relevance")
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    axes.margins(0.1)
    return figure


_COMPARED = {"balanced_accuracy": "balanced accuracy", "roc_auc": "area under the ROC curve"}

_LIKENESS = {
    "template_correlation": "correlation with the template",
    "template_overlap": "overlap with the template (Dice)",
}
_QC_AXES = {
    "mask_volume_ml": "brain mask (ml)",
    "striatal_shift_mm": "hottest voxels from the striata (mm)",
}


def qc_scatter(qc: pd.DataFrame) -> Figure:
    """Draw likeness to the template against brain volume; flagged images are named.

    SPECT has no brain mask; how far the hottest voxels lie from the striata takes its place.

    Parameters
    ----------
    qc
        One row per image: `participant_id mask_volume_ml template_correlation flags`
        (`flags` missing or "n/a" when nothing was flagged), and `session_id` if there are any;
        FLAIR has `template_overlap` in the place of the correlation.
    """
    figure, (axes,) = _chart(5.6, 3.8)
    across, words = next((one for one in _QC_AXES.items() if one[0] in qc), ("", ""))
    likeness, like_words = next((one for one in _LIKENESS.items() if one[0] in qc), ("", ""))
    wanted = [across, likeness]
    if not set(wanted) <= set(qc) or qc[wanted].dropna().empty:
        _nothing(axes, "No quality numbers were found.")
        return figure
    known = qc.dropna(subset=wanted)
    flagged = is_flagged(known).to_numpy()
    x, y = (known[name].to_numpy(float) for name in wanted)
    axes.scatter(x[~flagged], y[~flagged], s=30, color=ACCENT, alpha=0.75, lw=0)
    axes.scatter(x[flagged], y[flagged], s=42, color=CLASS_COLOURS[0], marker="D", lw=0)
    for row in np.flatnonzero(flagged)[:20]:
        axes.annotate(
            str(known["participant_id"].iat[row]),
            (x[row], y[row]),
            (6, 4),
            textcoords="offset points",
            size=8,
            color=INK,
        )
    axes.set(xlabel=words, ylabel=like_words)
    axes.margins(0.12)
    axes.grid(color="#eef1f2")
    axes.set_axisbelow(True)
    return figure


def qc_by_registration(qc: pd.DataFrame) -> Figure:
    """Draw how like the template images are, each registration beside the others.

    Parameters
    ----------
    qc
        One row per image: `registration template_correlation template_overlap`, or one of both.
    """
    measures = {name: words for name, words in _LIKENESS.items() if name in qc}
    figure, panels = _chart(7.2, 3.2, len(measures))
    kinds = sorted(qc["registration"].dropna().unique())
    rng = np.random.default_rng(0)
    for axes, (column, words) in zip(panels, measures.items(), strict=True):
        for place, kind in enumerate(kinds):
            values = qc.loc[qc["registration"] == kind, column].dropna().to_numpy(float)
            beside = place + rng.uniform(-0.16, 0.16, len(values))
            axes.scatter(beside, values, s=22, color=CLASS_COLOURS[1], alpha=0.6, lw=0)
            if len(values):
                axes.hlines(np.median(values), place - 0.28, place + 0.28, color=INK, lw=2)
        axes.set_xticks(range(len(kinds)), kinds)
        axes.set(ylabel=words, xlim=(-0.6, len(kinds) - 0.4))
        axes.grid(axis="y", color="#eef1f2")
        axes.set_axisbelow(True)
    return figure


def is_flagged(qc: pd.DataFrame) -> pd.Series:
    """Whether each row of a QC table carries a flag; text "n/a" and empty cells do not count."""
    if "flags" not in qc:
        return pd.Series(False, index=qc.index)
    text = qc["flags"].fillna("").astype(str).str.strip().str.lower()
    return ~text.isin(["", "n/a", "nan", "none"])


def null_distribution(
    max_distribution: NDArray, threshold: float, observed: float | None = None
) -> Figure:
    """Draw the permutation distribution of the largest statistic, with its threshold.

    Parameters
    ----------
    max_distribution
        Largest absolute t of every permutation, shape (permutations,).
    threshold
        Value that the corrected map is cut at.
    observed
        Largest absolute t of the real labels.
    """
    figure, (axes,) = _chart(5.2, 2.8)
    # As many bins as tell a shape: bars of one permutation each do not.
    bins = int(np.clip(np.sqrt(len(max_distribution)), 5, 40))
    axes.hist(np.asarray(max_distribution), bins=bins, color="#cfd8dc")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if np.isfinite(threshold):  # with few permutations nothing can be significant
        axes.axvline(threshold, color=ACCENT, lw=2)
        axes.text(
            threshold,
            1.02,
            f"threshold {threshold:.2f}",
            color=ACCENT,
            size=8.5,
            ha="center",
            transform=axes.get_xaxis_transform(),
        )
    if observed is not None:
        axes.axvline(observed, color=CLASS_COLOURS[0], lw=2, ls=(0, (3, 2)))
        axes.text(
            observed,
            0.9,
            f" observed {observed:.2f} ",
            ha="left" if observed >= threshold else "right",
            color=CLASS_COLOURS[0],
            size=8.5,
            transform=axes.get_xaxis_transform(),
        )
    axes.set(xlabel="largest |t| over the brain", ylabel="permutations")
    return figure


_FOREST = {"balanced_accuracy": "balanced accuracy", "roc_auc": "area under the ROC curve"}


def forest(table: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Draw classifiers with their intervals, the first on top and in colour.

    Parameters
    ----------
    table
        `classifier metric value ci_low ci_high`, with the metrics `balanced_accuracy` and
        `roc_auc`.
    names
        What to call each classifier.
    """
    order = list(dict.fromkeys(table["classifier"]))
    figure, panels = _chart(8.4, 1.1 + 0.36 * max(len(order), 2), panels=2)
    for axes, (metric, words) in zip(panels, _FOREST.items(), strict=True):
        rows = table[table["metric"] == metric].set_index("classifier").reindex(order)
        height = np.arange(len(order))[::-1]
        colours = [CLASS_COLOURS[0], *[CLASS_COLOURS[1]] * (len(order) - 1)]
        axes.axvline(0.5, color=QUIET, lw=1, ls=(0, (4, 3)), zorder=0)
        axes.hlines(height, rows["ci_low"], rows["ci_high"], color=colours, lw=2)
        for k, value in enumerate(rows["value"]):
            axes.scatter(value, height[k], s=42, color=colours[k], marker="D" if k == 0 else "o")
        axes.set_yticks(height, [names.get(one, one) for one in order])
        axes.tick_params(axis="y", length=0, labelleft=axes is panels[0])
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(order) - 0.4), xlabel=words)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="#eef1f2", zorder=0)
        axes.set_axisbelow(True)
    panels[0].xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def uptake_groups(
    people: pd.DataFrame,
    compared: pd.DataFrame,
    clusters: Sequence[str],
    classes: tuple[str, str],
) -> Figure:
    """Draw histograms of both classes' uptake and the ROC curve, per cluster and subset.

    As figure 4 of Nazari et al. 2021; dashed lines are means.

    Parameters
    ----------
    people
        One row per person: `label`, `subset`, and a column per cluster.
    compared
        Result of `models.follow_up.compare`.
    clusters
        Which of them, a row each.
    classes
        Negative and positive.
    """
    subsets = list(pd.unique(people["subset"]))
    figure, axes = _grid_of_charts(len(clusters), 2 * len(subsets))
    for row, cluster in zip(axes, clusters, strict=True):
        for k, subset in enumerate(subsets):
            chosen = people[people["subset"] == subset]
            found = compared[(compared["cluster"] == cluster) & (compared["subset"] == subset)]
            title = f"{cluster.replace('_', ' ')}, {subset}"
            _histograms(row[2 * k], chosen, cluster, classes, title)
            _uptake_roc(row[2 * k + 1], chosen, cluster, classes, found.iloc[0])
    return figure


def _grid_of_charts(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(2.9 * columns, 2.6 * rows), dpi=100, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.ravel():
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(QUIET)
        one.tick_params(colors=INK, labelsize=8, length=3, color=QUIET)
        one.title.set(color=INK, size=9)
    return figure, [list(row) for row in axes]


def _histograms(
    axes: Axes, people: pd.DataFrame, cluster: str, classes: tuple[str, str], title: str
) -> None:
    values = people[cluster].to_numpy(float)
    edges = np.histogram_bin_edges(values, min(20, max(6, len(values) // 3)))
    for name, colour in zip(reversed(classes), CLASS_COLOURS, strict=False):
        own = values[(people["label"] == name).to_numpy()]
        axes.hist(own, list(edges), color=colour, alpha=0.55, label=name)
        if len(own):
            axes.axvline(own.mean(), color=colour, ls="--", lw=1.4)
    axes.set_title(title, size=9, color=INK)
    axes.set_xlabel("uptake / reference", size=8.5, color=INK)
    axes.set_ylabel("people", size=8.5, color=INK)
    axes.legend(frameon=False, fontsize=7.5)


def _uptake_roc(
    axes: Axes, people: pd.DataFrame, cluster: str, classes: tuple[str, str], found: pd.Series
) -> None:
    labels = (people["label"] == classes[1]).to_numpy()
    if labels.all() or not labels.any():
        _nothing(axes, "One class only.")
        return
    false, true, _ = roc_curve(labels, -people[cluster].to_numpy(float))
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls=":")
    axes.plot(false, true, color=ACCENT, lw=1.8)
    text = f"AUC {found['auc']:.2f} ({found['auc_low']:.2f} to {found['auc_high']:.2f})"
    axes.set_title(text, size=9, color=INK)
    axes.set_xlabel(f"{classes[0]} below the cut", size=8.5, color=INK)
    axes.set_ylabel(f"{classes[1]} below the cut", size=8.5, color=INK)
    axes.set_aspect("equal")


def uptake_scatter(
    people: pd.DataFrame,
    related: pd.DataFrame,
    clusters: Sequence[str],
    measure: str,
    classes: tuple[str, str],
) -> Figure:
    """Draw each cluster's uptake against a measure, a mark per person.

    As figure 5 of Nazari et al. 2021.

    Parameters
    ----------
    people
        One row per person: `label`, the measure, and a column per cluster.
    related
        Result of `models.follow_up.correlate`.
    clusters
        Which of them, a panel each.
    measure
        Column of the horizontal axis.
    classes
        Negative and positive.
    """
    figure, (row,) = _grid_of_charts(1, len(clusters))
    for axes, cluster in zip(row, clusters, strict=True):
        for name, colour, marker in zip(
            reversed(classes), CLASS_COLOURS, CLASS_MARKERS, strict=False
        ):
            own = people[people["label"] == name]
            axes.scatter(
                own[measure], own[cluster], s=16, color=colour, marker=marker, lw=0, alpha=0.75,
                label=_with_r(related, cluster, name),
            )  # fmt: skip
        title = f"{cluster.replace('_', ' ')}\n{_with_r(related, cluster, 'everybody')}"
        axes.set_title(title, size=9, color=INK)
        axes.set_xlabel(measure, size=8.5, color=INK)
        axes.set_ylabel("uptake / reference", size=8.5, color=INK)
        axes.legend(
            frameon=False, fontsize=7.5, handletextpad=0.2, loc="upper center",
            bbox_to_anchor=(0.5, -0.24),
        )  # fmt: skip
    return figure


def _with_r(related: pd.DataFrame, cluster: str, group: str) -> str:
    """A group's name with its correlation, where there is one."""
    if related.empty:
        return group
    found = related[(related["cluster"] == cluster) & (related["group"] == group)]
    return f"{group}, r = {found['r'].iloc[0]:.2f}" if len(found) else group


def head_motion(shifts_mm: NDArray, turns_degrees: NDArray, outliers: Sequence[int] = ()) -> Figure:
    """Draw where the head was in each volume of a series; damaged volumes are marked.

    Parameters
    ----------
    shifts_mm, turns_degrees : (n, 3) array
        Along and about x, y and z of the image.
    outliers : sequence of int
        Numbers of the volumes, from 0.
    """
    figure, panels = _chart(8.0, 2.4, 2)
    for axes, values, words in zip(
        panels, (shifts_mm, turns_degrees), ("shift (mm)", "turn (degrees)"), strict=True
    ):
        for number in outliers:
            axes.axvspan(number - 0.5, number + 0.5, color=CLASS_COLOURS[0], alpha=0.25, lw=0)
        for values_of_axis, name, colour in zip(
            np.asarray(values).T, "xyz", CLASS_COLOURS, strict=False
        ):
            axes.plot(values_of_axis, color=colour, lw=1.4, label=name)
        axes.axhline(0, color=QUIET, lw=0.6)
        axes.set(xlabel="volume", ylabel=words)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].legend(frameon=False, fontsize=8, ncols=3, loc="upper left")
    return figure
