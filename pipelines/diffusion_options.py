"""What a recipe may choose of the preprocessing of diffusion images."""

from dataclasses import dataclass, fields

from models.errors import InputError

# Maps of a tensor that are tested beside the heatmaps.
MAPS = ("md", "fa", "sigma", "theta")
# Each choice and its values, the usual one first.
CHOICES = {
    "fit": ("WLS", "OLS", "NLLS", "RESTORE"),
    "gibbs": ("auto", "mrtrix3", "dipy", "none"),
    "motion": ("ants", "fsl"),
    "outliers": ("drop", "keep"),
    "coregistration": ("deformable", "rigid"),
    "reorientation": ("ppd", "finite_strain", "none"),
    "interpolation": ("components", "log"),
}


@dataclass(frozen=True)
class Diffusion:
    """[preprocessing.dwi]: choices that are of diffusion images alone.

    Parameters
    ----------
    fit : {"WLS", "OLS", "NLLS", "RESTORE"}
        Of the tensor, see `models.diffusion.fit_tensor`.
    gibbs : {"auto", "mrtrix3", "dipy", "none"}
        Who removes Gibbs rings; auto is MRtrix3 where it is on PATH, else dipy. The two differ:
        never mix them in one study.
    motion : {"ants", "fsl"}
        Who aligns the volumes: ANTs, or the user's own FSL (eddy, and topup with a pair).
    outliers : {"drop", "keep"}
        Whether volumes with damaged slices are left out of the fit.
    coregistration : {"deformable", "rigid"}
        Of b0 to T1w.
    reorientation : {"ppd", "finite_strain", "none"}
        How tensors are turned when they are carried into another space.
    interpolation : {"components", "log"}
        What is interpolated: components, or the matrix logarithm.
    """

    fit: str = "WLS"
    gibbs: str = "auto"
    motion: str = "ants"
    outliers: str = "drop"
    coregistration: str = "deformable"
    reorientation: str = "ppd"
    interpolation: str = "components"

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value not in CHOICES[one.name]:
                raise InputError(
                    f"[preprocessing.dwi] {one.name} = '{value}' is unknown; choose one of: "
                    f"{', '.join(CHOICES[one.name])}"
                )
