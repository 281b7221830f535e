"""Network without pooling of Nazari et al. 2021 for dopamine transporter SPECT."""

from math import prod

from torch import nn

from models.networks.layers import spatial_shape

WIDTH = 16
CONVOLUTIONS = 4


def build(
    shape: tuple[int, int, int],
    *,
    channels: int = 1,
    outputs: int = 2,
    dropout: float = 0.2,
    width: int = WIDTH,
) -> nn.Sequential:
    """Four times Conv 16 (same padding) and ReLU, then FC 16 three times and FC ``outputs``.

    Nothing is pooled, so that every feature map keeps the size of the image: 71x90x72 voxels
    (``full``, ``nostriatum``) flatten to 7,361,280 features and give 117,802,306 parameters,
    61x44x35 (``striatum``) to 1,503,040 and 24,070,466. The publication says 236 and 25 million;
    the first is twice what its stated sizes give. Padding is not stated: same padding is ours.

    First weights are not stated either. They are drawn as Keras does (Glorot & Bengio 2010, biases
    0): eight layers of PyTorch's own default let so little of an image through that training stays
    at chance for long.

    Parameters
    ----------
    shape : tuple of int
        Input voxels.
    channels, outputs : int
        Input channels and output scores (before softmax).
    dropout : float
        Rate after the first fully connected layer, the only one that has it.
    width : int
        Filters of each convolution, 16 in the publication.

    References
    ----------
    Nazari M, Kluge A, Apostolova I, et al. (2021). Data-driven identification of diagnostically
    useful extrastriatal signal in dopamine transporter SPECT using explainable AI. Scientific
    Reports 11:22932.

    Glorot X, Bengio Y (2010). Understanding the difficulty of training deep feedforward neural
    networks. AISTATS 2010, PMLR 9:249-256.
    """
    layers: list[nn.Module] = []
    for _ in range(CONVOLUTIONS):
        layers += [nn.Conv3d(width if layers else channels, width, 3, padding=1), nn.ReLU()]
    features = width * prod(spatial_shape(layers, shape))
    network = nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(features, 16),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.Linear(16, outputs),
    )
    for layer in network:
        if isinstance(layer, nn.Conv3d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return network
