"""How a network is trained: everything of the loop that a recipe may say."""

from dataclasses import dataclass, field

from models.errors import InputError
from models.training.augmentation import Augmentation

METRICS = (
    "validation_loss",
    "validation_accuracy",
    "validation_balanced_accuracy",
    "validation_auc",
)
CHOICES = {
    "select": (*METRICS, "last"),
    "stop": ("", *METRICS),
    "schedule": ("constant", "onecycle", "step", "inverse"),
    "class_weights": ("none", "balanced"),
    "precision": ("auto", "float32", "bf16", "fp16"),
    "memory_format": ("auto", "contiguous", "channels_last"),
}


@dataclass(frozen=True)
class Protocol:
    """How a network is trained.

    Parameters
    ----------
    epochs, batch_size : int
    learning_rate, weight_decay : float
        Of Adam (L2 penalty as in the papers, not decoupled): ``weight_decay`` times the weight is
        added to its gradient. A penalty written as lambda times the sum of squares, as Keras
        does, is ``weight_decay = 2 lambda``.
    weight_decay_layers : tuple of str
        Names of modules (``"8"``, ``"features.conv3"``) whose weights alone are penalised, biases
        not; empty: all parameters are.
    schedule : {"constant", "onecycle", "step", "inverse"}
        ``onecycle`` rises to ``learning_rate`` and falls (Smith & Topin 2019); ``step`` multiplies
        it by ``decay`` every ``decay_every`` epochs (Estudillo-Romero 2022: .96, 50); ``inverse``
        divides it by 1 + ``decay`` times the number of updates so far (Eitel 2019: .002).
    decay, decay_every : float, int
        See ``schedule``.
    select : {"validation_balanced_accuracy", "validation_accuracy", "validation_auc", \
"validation_loss", "last"}
        Whose epoch's weights are kept; ties go to the lower validation loss.
    stop : str
        What early stopping watches, as ``select``; "" for the same. Eitel 2019 stopped on the
        validation loss and kept the best validation accuracy.
    patience : int
        Stop after so many epochs without a better one; 0 never stops early.
    ignore_epochs : int
        So many first epochs are neither selected nor counted by ``patience`` (Eitel 2021: 5).
    class_weights : {"none", "balanced"}
        ``balanced`` weighs an image's loss by n / (2 n of its class), n counted in the training
        part; the loss is the mean over the images of the batch.
    label_smoothing : float
        Share of the target that is spread over the classes, in [0, 1).
    accumulate : int
        Parts that a batch is computed in, one after another: the same update with less memory
        (BatchNorm sees a part at a time). Where a GPU's memory runs out, it doubles by itself.
    precision : {"auto", "float32", "bf16", "fp16"}
        Of training and validation; the scores of test people are always computed in float32.
        ``auto`` is float32 but on CUDA: bf16, before Ampere fp16.
    memory_format : {"auto", "contiguous", "channels_last"}
        ``auto`` is channels last on a CPU, and on CUDA in bf16 and fp16, unless the network cannot
        take it (such as for a ``view`` of its maps).
    compile : bool
        Whether the network goes through ``torch.compile``, which takes a minute and a compiler.
    augmentation : Augmentation
        Applied to training images only.
    """

    epochs: int = 50
    batch_size: int = 4
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    weight_decay_layers: tuple[str, ...] = ()
    schedule: str = "constant"
    decay: float = 0.0
    decay_every: int = 50
    select: str = "validation_balanced_accuracy"
    stop: str = ""
    patience: int = 8
    ignore_epochs: int = 0
    class_weights: str = "none"
    label_smoothing: float = 0.0
    accumulate: int = 1
    precision: str = "auto"
    memory_format: str = "auto"
    compile: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"[training.protocol] {name} = '{getattr(self, name)}' is unknown; "
                    f"choose one of: {', '.join(one for one in known if one)}"
                )
        for name, possible, limits in self._limits():
            if not possible:
                raise InputError(
                    f"[training.protocol] {name} = {getattr(self, name):g}: must be {limits}"
                )

    def _limits(self) -> list[tuple[str, bool, str]]:
        """Key, whether its value can be used, and what values can."""
        return [
            ("epochs", self.epochs >= 1, "1 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            (
                "accumulate",
                1 <= self.accumulate <= self.batch_size,
                f"from 1 to batch_size = {self.batch_size}",
            ),
            ("learning_rate", self.learning_rate >= 0, "0 or more"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("patience", self.patience >= 0, "0 (never stop early) or more"),
            (
                "ignore_epochs",
                0 <= self.ignore_epochs < self.epochs,
                f"0 or more and less than epochs = {self.epochs}",
            ),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "0 or more and below 1"),
            (
                "decay",
                self.schedule != "step" or 0 < self.decay <= 1,
                "above 0 and at most 1 with schedule = 'step'",
            ),
            (
                "decay",
                self.schedule != "inverse" or self.decay > 0,
                "above 0 with schedule = 'inverse'",
            ),
            ("decay_every", self.decay_every >= 1, "1 or more epochs"),
        ]

    @property
    def watched(self) -> str:
        """What early stopping watches."""
        return self.stop or self.select

    @property
    def needs_validation(self) -> bool:
        """Whether an epoch is selected, or training stopped, by validation people."""
        return {self.select, self.watched if self.patience else "last"} != {"last"}
