"""Charts of anomaly scores: reconstructions, percentages of people, g-means of regions.

They follow figures 2, 3 and 4 of Muñoz-Ramírez et al. Every function returns a matplotlib figure.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipelines.charts import CLASS_COLOURS, CLASS_MARKERS, _chart, _nothing
from pipelines.figures import INK, QUIET

MOST_PATIENTS = 15


def gmeans(regions: pd.DataFrame) -> Figure:
    """G-mean of every region and auto-encoder, mean and SD over the splits (figure 4).

    Parameters
    ----------
    regions
        method, roi, gmean, gmean_sd, gmean_held_out, gmean_held_out_sd.
    """
    rois = list(dict.fromkeys(regions["roi"]))
    methods = list(dict.fromkeys(regions["method"]))
    figure, (axes,) = _chart(max(6.0, 0.75 * len(rois) + 1.5), 4.2)
    if regions["gmean"].isna().all():
        _nothing(axes, "A g-mean needs controls and patients.")
        return figure
    step = 0.8 / len(methods)
    for k, method in enumerate(methods):
        part = regions[regions["method"] == method].set_index("roi").reindex(rois)
        x = np.arange(len(rois)) + (k - (len(methods) - 1) / 2) * step
        colour = CLASS_COLOURS[k % len(CLASS_COLOURS)]
        axes.bar(x, part["gmean_held_out"], 0.85 * step, color=colour, alpha=0.55, lw=0,
                 label=f"{method}: threshold held out")  # fmt: skip
        best = f"{method}: best threshold (optimistic)"
        axes.errorbar(x, part["gmean"], part["gmean_sd"], fmt=CLASS_MARKERS[k % 4], ms=5, lw=1,
                      capsize=2, color=colour, label=best)  # fmt: skip
    axes.set_xticks(range(len(rois)), rois, rotation=40, ha="right")
    axes.set(ylim=(0, 1.02), ylabel="g-mean, mean and SD over splits")
    axes.axhline(0.5, color=QUIET, lw=1, ls=(0, (4, 3)))
    axes.text(len(rois) - 0.45, 0.51, "chance", color=QUIET, size=8, ha="right")
    axes.legend(frameon=False, fontsize=8, ncols=len(methods), loc="upper center",
                bbox_to_anchor=(0.5, 1.2), labelcolor=INK)  # fmt: skip
    return figure


def percentages(table: pd.DataFrame, classes: Sequence[str], seed: int = 0) -> Figure:
    """Abnormal percentage per region of people of the first split (figure 3).

    Parameters
    ----------
    table
        Of one auto-encoder: participant_id, positive, role, split, roi, percent.
    classes
        Negative and positive class.
    seed
        Of the patients that are drawn, where there are more than 15.
    """
    first = table[(table["split"] == table["split"].min()) & (table["role"] == "test")]
    rois = list(dict.fromkeys(first["roi"]))
    figure = Figure(figsize=(max(6.5, 0.7 * len(rois) + 2), 6.0), dpi=100, facecolor="white")
    figure.set_layout_engine("constrained")
    above, below = figure.subplots(2, 1, sharex=True, sharey=True)
    rng = np.random.default_rng(seed)
    for axes, positive in ((above, False), (below, True)):
        part = first[first["positive"].astype(bool) == positive]
        people = part["participant_id"].unique()
        drawn = people
        if positive and len(people) > MOST_PATIENTS:
            drawn = rng.choice(people, MOST_PATIENTS, replace=False)
        part = part[part["participant_id"].isin(drawn)]
        values = [part.loc[part["roi"] == roi, "percent"].dropna() for roi in rois]
        for k, one in enumerate(values):
            x = k + np.linspace(-0.28, 0.28, len(one)) if len(one) > 1 else [k] * len(one)
            axes.scatter(x, one, s=16, color=CLASS_COLOURS[int(not positive)], alpha=0.75, lw=0)
            axes.plot([k - 0.3, k + 0.3], [one.median()] * 2, color=INK, lw=1.4)
        axes.set_title(f"{len(drawn)} of {len(people)} {classes[positive]}", loc="left", size=10)
        axes.set_ylabel("abnormal voxels (%)", color=INK, size=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8.5, color=QUIET, labelcolor=INK)
    below.set_xticks(range(len(rois)), rois, rotation=40, ha="right")
    return figure


def reconstructions(
    image: np.ndarray, found: Mapping[str, np.ndarray], whose: tuple[str, int]
) -> Figure:
    """An axial slice of a control and of its reconstructions, one row per channel (figure 2).

    Parameters
    ----------
    image
        (C, x, y, z).
    found
        Auto-encoder to (C, x, y, z).
    whose
        Participant, and number of the slice.
    """
    person, level = whose
    figure = Figure(figsize=(2.2 * (1 + len(found)), 2.5 * len(image)), dpi=100, facecolor="white")
    figure.set_layout_engine("constrained")
    cells = figure.subplots(len(image), 1 + len(found), squeeze=False)
    for channel, row in enumerate(cells):
        top = float(np.percentile(image[channel], 99.5)) or 1.0
        shown = {f"{person}, left out": image, **found}
        for axes, (name, volume) in zip(row, shown.items(), strict=True):
            axes.imshow(volume[channel, :, :, level].T, cmap="gray", vmin=0, vmax=top,
                        origin="lower")  # fmt: skip
            axes.set_axis_off()
            axes.text(0.02, 0.5, "L", transform=axes.transAxes, color="white", size=9)
            axes.text(0.93, 0.5, "R", transform=axes.transAxes, color="white", size=9)
            if channel == 0:
                axes.set_title(name, size=10, color=INK)
    return figure
