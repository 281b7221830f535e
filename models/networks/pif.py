"""Baselines and patch-individual-filter networks of Eitel et al. 2021."""

from math import prod
from typing import NamedTuple

from torch import nn

from models.errors import InputError
from models.networks.layers import spatial_shape
from models.networks.patches import PatchIndividualFilters

PATCH = 5


class Stage(NamedTuple):
    """A convolution 3x3x3 and the max-pooling after it; ``pool`` is (size, stride)."""

    width: int
    pool: tuple[int, int] | None = None
    padding: int = 0
    pool_padding: int = 0


class Plan(NamedTuple):
    """Stages, filters per patch (0: no patch-individual filters) and neurons of the FC layer."""

    stages: tuple[Stage, ...]
    filters: int = 0
    hidden: int = 100


_ADNI_A = (Stage(8, (3, 3)), Stage(16, (3, 2)), Stage(32), Stage(64))
_ADNI_B = (Stage(64, (3, 3)), Stage(64, (3, 2)), Stage(64), Stage(64))
_UKB_A = (Stage(8, (3, 3)), Stage(16, (3, 3)), Stage(32), Stage(64))
_UKB_B = (Stage(8, (3, 3)), Stage(32, (3, 3)))

_MS = (Stage(64), Stage(64, (3, 1)))

# study, model, whether it ends in patch-individual filters
PLANS = {
    ("adni", "A", False): Plan((*_ADNI_A, Stage(36, (4, 2))), hidden=80),
    ("adni", "B", False): Plan((*_ADNI_B, Stage(36, (4, 2))), hidden=80),
    ("adni", "A", True): Plan(_ADNI_A, filters=3),
    ("adni", "B", True): Plan(_ADNI_B, filters=3),
    ("ukb", "A", False): Plan((*_UKB_A, Stage(64, (4, 2)))),
    ("ukb", "B", False): Plan((*_UKB_B, Stage(64), Stage(64, (4, 3)))),
    ("ukb", "A", True): Plan(_UKB_A, filters=6),
    ("ukb", "B", True): Plan((*_UKB_B, Stage(64, (3, 2))), filters=6),
    ("ms", "A", False): Plan((Stage(16, (3, 3)), Stage(32, (3, 3)), *_MS)),
    ("ms", "B", False): Plan((Stage(64, (3, 3)), Stage(64, (3, 3)), *_MS)),
    ("ms", "A", True): Plan(
        (Stage(16, (3, 3)), Stage(32, (3, 2)), Stage(64), Stage(64)), filters=4
    ),
    ("ms", "B", True): Plan(
        (Stage(64, (3, 3)), Stage(64, (3, 3), pool_padding=1), Stage(64, padding=1)), filters=4
    ),
}


def build(
    shape: tuple[int, int, int],
    *,
    channels: int = 1,
    outputs: int = 2,
    study: str = "adni",
    model: str = "A",
    filters: bool = True,
    reassemble: bool = False,
    average_gradients: bool = True,
    dropout: float = 0.3,
) -> nn.Sequential:
    """Shallow network of convolutions, ELU and pooling; "PIF" ends in patch-individual filters.

    On the grid of each study (``adni`` and ``ms`` 96x114x96, ``ukb`` 182x218x182), with
    ``outputs=1`` as published. Maps: what is flattened, or what the patch-individual filters see.

    =====  =====  ========  ========  ==========
    study  model  maps      features  parameters
    =====  =====  ========  ========  ==========
    adni   A      3x4x3         1296     238,997
    adni   B      3x4x3         1296     499,845
    adni   A-PIF  10x13x10      1134     259,131
    adni   B-PIF  10x13x10      1134     519,979
    ukb    A      5x7x5        11200   1,303,769
    ukb    B      4x6x4         6144     787,785
    ukb    A-PIF  15x19x15      7776   1,348,665
    ukb    B-PIF  8x10x8        1458     301,895
    ms     A      3x5x3         2880     468,521
    ms     B      3x5x3         2880     621,961
    ms     A-PIF  10x13x10      1512     428,545
    ms     B-PIF  10x12x10      1512     471,329
    =====  =====  ========  ========  ==========

    The widths are those of the supplement and of the authors' code; ``ms`` B-PIF is in the code
    only. Patches have 5 voxels, filters 3. Dropout is of whole maps (Dropout3d).

    Parameters
    ----------
    shape : tuple of int
        Input voxels; the default model needs at least 71 along every axis.
    channels, outputs : int
        Input channels and output scores (before softmax or sigmoid).
    study : {"adni", "ukb", "ms"}
    model : {"A", "B"}
    filters : bool
        End in patch-individual filters ("A-PIF"), or in the convolution of the baseline ("A").
    reassemble : bool
        Put the patches back into one map, averaging both strands; see
        :class:`models.networks.patches.PatchIndividualFilters`. The published networks do not.
    average_gradients : bool
        Average the gradients of the overlapping strands in training (text) or add them (code).
    dropout : float
        Rate after each max-pooling.

    Raises
    ------
    models.errors.InputError
        No such study or model, or a grid that is too small for it.

    References
    ----------
    Eitel F, Albrecht JP, Weygandt M, Paul F, Ritter K (2021). Patch individual filter layers in
    CNNs to harness the spatial homogeneity of neuroimaging data. Scientific Reports 11:24447.
    """
    plan = _plan(study, model, filters)
    layers = _trunk(channels, plan.stages, dropout)
    width = plan.stages[-1].width
    sizes = spatial_shape(layers, shape, least=PATCH + 1 if plan.filters else 1)
    if plan.filters:
        patches = PatchIndividualFilters(
            width,
            plan.filters,
            sizes,
            patch=PATCH,
            reassemble=reassemble,
            average_gradients=average_gradients,
        )
        layers += [patches, nn.ELU()]
    features = patches.features if plan.filters else width * prod(sizes)
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(features, plan.hidden),
        nn.ELU(),
        nn.Linear(plan.hidden, outputs),
    )


def _plan(study: str, model: str, filters: bool) -> Plan:
    if (study, model, filters) not in PLANS:
        raise InputError(
            f"network 'pif' has no model '{model}' of study '{study}'; choose one of: "
            + ", ".join(dict.fromkeys(f"{known} {name}" for known, name, _ in PLANS))
        )
    return PLANS[study, model, filters]


def _trunk(channels: int, stages: tuple[Stage, ...], dropout: float) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for stage in stages:
        layers += [nn.Conv3d(channels, stage.width, 3, padding=stage.padding), nn.ELU()]
        if stage.pool:
            layers += [
                nn.MaxPool3d(*stage.pool, padding=stage.pool_padding),
                nn.Dropout3d(dropout),
            ]
        channels = stage.width
    return layers
