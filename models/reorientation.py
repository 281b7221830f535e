"""Turning diffusion tensors along with the tissue, when an image is deformed.

``F`` is the local derivative of the mapping that carries tissue from the image to its new place
(push-forward), a 3x3 matrix along the RAS+ world axes. Resampling goes the other way: for a
displacement field that says where each new voxel comes from, ``F`` is the inverse of the field's
derivative (`models.jacobian.derivative`).

Alexander DC, Pierpaoli C, Basser PJ, Gee JC (2001). Spatial transformations of diffusion tensor
magnetic resonance images. IEEE Transactions on Medical Imaging 20(11), 1131-1139.
"""

from collections.abc import Callable

import torch

from models.tensor import assembled, components, eigen, matrices


def preserve_principal_direction(tensors: torch.Tensor, forward: torch.Tensor) -> torch.Tensor:
    """Turn tensors so that their first eigenvector follows the tissue, and their plane does, too.

    The paper's rotation takes e1 to n1 = F e1 / |F e1|, and e2 to the part of F e2 at right angles
    to n1. That frame is what Gram and Schmidt make of F e1, F e2, F e3: the orthogonal factor of
    a QR decomposition. Eigenvalues stay.

    Parameters
    ----------
    tensors : (..., 6) torch.Tensor
    forward : (..., 3, 3) torch.Tensor
        ``F``, invertible.
    """
    values, vectors = eigen(tensors)
    frame, _ = torch.linalg.qr(forward @ vectors)
    return assembled(values, frame)


def finite_strain(tensors: torch.Tensor, forward: torch.Tensor) -> torch.Tensor:
    """Turn tensors by the rotation within ``F`` alone, (F F^T)^(-1/2) F; shears are not followed.

    Parameters
    ----------
    tensors : (..., 6) torch.Tensor
    forward : (..., 3, 3) torch.Tensor
        ``F``, invertible.
    """
    left, _, right = torch.linalg.svd(forward)
    rotation = left @ right
    return components(rotation @ matrices(tensors) @ rotation.mT)


def leave(tensors: torch.Tensor, forward: torch.Tensor) -> torch.Tensor:
    """Leave tensors as they are: only to show what goes wrong without reorientation."""
    return tensors


REORIENTATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "ppd": preserve_principal_direction,
    "finite_strain": finite_strain,
    "none": leave,
}
