"""What a group run is about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.baselines import BaselineOptions
from pipelines.derivatives import SPACE
from pipelines.harmonisation import HarmonisationOptions
from pipelines.heatmaps import NO_ANALYTICS, NO_COMMON_SPACE
from pipelines.region_volumes import Deformations
from pipelines.statistics import StatisticsOptions
from pipelines.stored_models import network_file
from pipelines.transfer import Starts
from pipelines.view import Mask, View


@dataclass(frozen=True)
class Study:
    """What a group run is about; everything that its model card must say.

    Parameters
    ----------
    model : str
        Label of the model.
    classes : tuple of str
        Negative and positive class as in participants.tsv.
    grid : dict
        name, shape, voxel_mm, origin_mm.
    modality : str
        BIDS suffix of the images.
    intensity : str
        Intensity scale of the network's input.
    network, protocol : dict
        The recipe's tables.
    view : View
        What of an image the network sees.
    exclude : Mask
        Regions that do not count for the percentile above which clusters lie.
    attributions : tuple of dict
        Each with a unique alphanumeric ``name``, a ``method`` and parameters.
    atlas : str
        Name or file.
    covariates : tuple of str
        Columns of the cohort table.
    statistics : StatisticsOptions
    seed : int
    volumes : dict
        Region, sides joined, to the column of the cohort table that holds its volume, or to
        "jacobian" where the registration is to tell it.
    deformations : Deformations, optional
        Of everybody, where the registration is to tell volumes.
    threshold : float or str
        Probability from which the answer is the positive class; "validation": chosen per fold on
        its validation people.
    search : dict
        The recipe's [training.search].
    starts : Starts, optional
        Stored networks that the folds start from.
    space : str
        BIDS label of the space of the images. Where it is not the template's, a voxel is another
        place in every brain: there are no tables of regions, no means and no tests.
    ways : mapping
        (participant, session) to (image, transform from the template) of images that were not
        registered, where their maps can be taken there; then there are means and tests after all.
    baselines : BaselineOptions
        Simple classifiers beside the network; none without names.
    site : str
        Column of the cohort table with the site of each image; "" without one.
    harmonisation : HarmonisationOptions
        Whether sites are taken off the images inside each fold.
    lesions : bool
        Whether the cohort table names everybody's lesion mask.
    """

    model: str
    classes: tuple[str, str]
    grid: Mapping[str, Any]
    modality: str
    intensity: str
    network: Mapping[str, Any]
    protocol: Mapping[str, Any]
    attributions: tuple[Mapping[str, Any], ...]
    atlas: str
    covariates: tuple[str, ...]
    statistics: StatisticsOptions
    seed: int
    volumes: Mapping[str, str] = field(default_factory=dict)
    deformations: Deformations | None = None
    threshold: float | str = 0.5
    starts: Starts | None = None
    space: str = SPACE
    ways: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    baselines: BaselineOptions = field(default_factory=lambda: BaselineOptions(names=()))
    site: str = ""
    harmonisation: HarmonisationOptions = field(default_factory=HarmonisationOptions)
    lesions: bool = False
    view: View = field(default_factory=View)
    exclude: Mask = field(default_factory=Mask)

    @property
    def registered(self) -> bool:
        """Whether voxels correspond between people."""
        return self.space == SPACE

    @property
    def comparable(self) -> bool:
        """Whether maps are in one space, at once or in the end."""
        return self.registered or bool(self.ways and self.attributions)

    @property
    def _limits(self) -> list[str]:
        if self.registered:
            return []
        return [NO_ANALYTICS if self.comparable else NO_COMMON_SPACE]

    def card(self, recipe: Mapping[str, Any], versions: Mapping[str, str], folds: int) -> dict:
        """The model card without its results."""
        network, recipe = dict(self.network), dict(recipe)
        if "file" in network:  # the model's folder holds a copy
            network["file"] = Path(network_file(self.model)).name
            recipe["network"] = network
        return {
            "Name": self.model,
            "Classes": list(self.classes),
            "Grid": dict(self.grid),
            "Modality": self.modality,
            "Space": self.space,
            "NotComputed": self._limits,
            "Intensity": self.intensity,
            "View": self.view.as_dict(),
            "Network": network,
            "Protocol": dict(self.protocol),
            "Attributions": [dict(one) for one in self.attributions],
            "Atlas": self.atlas,
            "Seed": self.seed,
            "Folds": folds,
            "Versions": dict(versions),
            "Recipe": recipe,
            "Search": dict(self.search),
            "Harmonisation": self.harmonisation.card(self.site),
            "Transfer": self.starts.provenance if self.starts else None,
            "IntendedUse": "research; not a medical device",
        }
