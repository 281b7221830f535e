"""What the analytics of heatmaps are computed with, for those who only tell of them."""

TOP = 25  # regions of a figure and of a fingerprint (Böhle et al. 2019)
SHARED_TOP = 10  # regions whose overlap is counted
CONFIDENT = 0.9  # probability above which a patient's fingerprint counts
PERCENTILE = 95.0  # of the difference that is clustered (Nazari et al. 2021)
DRAWS = 2000  # of the bootstrap
ATTRIBUTION_KEYS = ("name", "method", "explain")  # of [[attribution]]; the others are parameters
EXPLAINED = ("positive", "predicted")  # class that a map explains
PREDICTED = "the class that each network predicts"  # what sidecars call the latter
JACOBIAN = "jacobian"  # in place of a column of volumes: those that the registration tells
