"""One-class scores in the space of codes: a support vector machine per place.

After Alaverdyan et al. 2020: at every place of the brain, a one-class SVM encloses the codes of
the controls' patches; the distance of a person's code beyond its border is the anomaly there.
"""

import numpy as np
from sklearn.svm import OneClassSVM


def one_class_scores(controls: np.ndarray, people: np.ndarray, *, nu: float = 0.03) -> np.ndarray:
    """How far codes lie outside of the controls' ones.

    Parameters
    ----------
    controls : (controls, places, features) array
    people : (people, places, features) array
    nu : float
        Largest share of controls that may be outside.

    Returns
    -------
    (people, places) float32 array
        Minus the decision function of an RBF kernel whose width is the median distance of the
        controls' codes at that place: above 0 outside.
    """
    found = np.empty(people.shape[:2], np.float32)
    for place in range(controls.shape[1]):
        codes = controls[:, place].astype(np.float64)
        machine = OneClassSVM(kernel="rbf", nu=nu, gamma=_gamma(codes)).fit(codes)
        found[:, place] = -machine.decision_function(people[:, place].astype(np.float64))
    return found


def _gamma(codes: np.ndarray) -> float:
    """1 / (2 median squared distance) of different codes; 1 where all are alike."""
    squares = np.square(codes[:, None] - codes[None]).sum(-1)[np.triu_indices(len(codes), 1)]
    middle = float(np.median(squares))
    return 1 / (2 * middle) if middle > 0 else 1.0
