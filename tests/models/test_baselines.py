"""Baselines against scikit-learn on the voxels, and against leaks."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.svm import SVC

from models.errors import InputError
from models.training.baselines import (
    People,
    logistic,
    nested,
    svm,
    svm_settings,
)
from models.training.kernels import of_gram, of_table

GRID = (0.001, 0.1, 1.0, 10.0)
TRAIN, TEST = np.arange(0, 48), np.arange(48, 60)


@pytest.fixture
def cohort():
    """Two images of each of thirty people, the classes apart along one direction."""
    rng = np.random.default_rng(4)
    persons = np.repeat(np.arange(30), 2)
    labels = persons % 2 == 0
    voxels = rng.normal(2, 1, (60, 200))
    voxels[:, :20] += 0.8 * labels[:, None]
    return voxels, People(labels, persons)


def scaled(voxels):
    centred = voxels - voxels[TRAIN].mean(0)
    return centred / np.sqrt((centred[TRAIN] ** 2).sum(1).mean())


@pytest.mark.parametrize("setting", [{"C": 0.1}, {"C": 10.0}, {"C": 1.0, "gamma": 0.1}])
def test_the_gram_matrix_gives_the_machine_of_the_voxels(cohort, setting):
    voxels, people = cohort
    learnt = svm(of_gram(voxels @ voxels.T), people)(TRAIN, TEST, [setting])[0]
    kind = (
        {"kernel": "rbf", "gamma": setting["gamma"]} if "gamma" in setting else {"kernel": "linear"}
    )
    direct = SVC(C=setting["C"], class_weight="balanced", **kind)
    direct.fit(scaled(voxels)[TRAIN], people.labels[TRAIN])
    assert_allclose(learnt, direct.decision_function(scaled(voxels)[TEST]), atol=2e-3)


@pytest.mark.parametrize("gamma", [(), GRID])
def test_a_difference_between_the_classes_is_found(cohort, gamma):
    voxels, people = cohort
    learner = svm(of_gram(voxels @ voxels.T), people)
    found = nested(learner, svm_settings(GRID, gamma), people, train=TRAIN, test=TEST)
    assert ((found.scores >= 0) == people.labels[TEST]).mean() > 0.8
    assert found.inner_balanced_accuracy > 0.8
    assert set(found.setting) == ({"C", "gamma"} if gamma else {"C"})


def test_settings_are_chosen_by_inner_folds_of_persons(cohort):
    """A replica: every setting on every inner fold, pooled, the first of the best."""
    from sklearn.model_selection import StratifiedGroupKFold

    voxels, people = cohort
    settings, products = svm_settings(GRID, GRID), voxels @ voxels.T
    labels, persons = people.labels[TRAIN], people.persons[TRAIN]
    reached, values = [], []
    for one in settings:
        scores = np.zeros(48)
        folder = StratifiedGroupKFold(5, shuffle=True, random_state=7)
        for some, rest in folder.split(TRAIN, labels, persons):
            assert not set(persons[some]) & set(persons[rest])
            scores[rest] = svm(of_gram(products), people)(TRAIN[some], TRAIN[rest], [one])[0]
        hit = (scores >= 0) == labels
        reached.append((hit[labels].mean() + hit[~labels].mean()) / 2)
        values.append(scores)
    best = int(np.argmax(reached))
    found = nested(svm(of_gram(products), people), settings, people, train=TRAIN, test=TEST, seed=7)
    assert found.setting == settings[best]
    assert found.inner_balanced_accuracy == reached[best]
    raw = svm(of_gram(products), people)(TRAIN, TEST, [settings[best]])[0]
    assert_allclose(found.scores, raw / np.sqrt((values[best] ** 2).mean()))


def test_the_fit_sees_neither_images_nor_labels_of_the_test_part(cohort):
    voxels, people = cohort
    settings = svm_settings(GRID)
    clean = nested(
        svm(of_gram(voxels @ voxels.T), people), settings, people, train=TRAIN, test=TEST
    )
    turned = People(people.labels.copy(), people.persons)
    turned.labels[TEST] ^= True
    again = nested(
        svm(of_gram(voxels @ voxels.T), turned), settings, turned, train=TRAIN, test=TEST
    )
    assert_array_equal(again.scores, clean.scores)
    # Images of all but one test person are poisoned: that person's score stays.
    poisoned = voxels.copy()
    poisoned[TEST[1:]] = np.nan
    learner = svm(of_gram(poisoned @ poisoned.T), people)
    alone = nested(learner, settings, people, train=TRAIN, test=TEST[:1])
    assert (alone.setting, alone.scores[0]) == (clean.setting, pytest.approx(clean.scores[0]))


def test_a_label_that_means_nothing_is_not_learnt():
    rng = np.random.default_rng(5)
    hits = []
    for _ in range(12):
        voxels, labels = rng.normal(size=(60, 50)), np.arange(60) % 2 == 0
        people = People(labels, np.arange(60))
        found = nested(
            svm(of_gram(voxels @ voxels.T), people), svm_settings(GRID), people,
            train=TRAIN, test=TEST,
        )  # fmt: skip
        hits.append(((found.scores >= 0) == labels[TEST]).mean())
    assert abs(np.mean(hits) - 0.5) < 0.13  # three standard errors of 144 guesses


def test_a_person_on_both_sides_is_refused(cohort):
    voxels, people = cohort
    learner = svm(of_gram(voxels @ voxels.T), people)
    with pytest.raises(InputError, match="training and in the test part"):
        nested(learner, svm_settings(GRID), people, train=np.arange(49), test=np.arange(49, 60))


@pytest.mark.parametrize("few", [0, 1])
def test_a_class_that_cannot_be_divided_is_refused(cohort, few):
    voxels, people = cohort
    labels = np.isin(people.persons, range(few))
    people = People(labels, people.persons)
    with pytest.raises(InputError, match=rf"fewer than two people \({few}\)"):
        nested(
            svm(of_gram(voxels @ voxels.T), people),
            svm_settings(GRID),
            people,
            train=TRAIN,
            test=TEST,
        )


def test_two_people_of_a_class_are_enough(cohort):
    voxels, people = cohort
    people = People(np.isin(people.persons, (2, 9)), people.persons)
    learner = svm(of_gram(voxels @ voxels.T), people)
    found = nested(learner, svm_settings(GRID), people, train=TRAIN, test=TEST)
    assert np.isfinite(found.scores).all()


def test_regions_work_the_same_way(cohort):
    voxels, people = cohort
    regions = voxels.reshape(60, 20, 10).mean(2)
    learner = svm(of_table(regions), people)
    found = nested(learner, svm_settings(GRID), people, train=TRAIN, test=TEST)
    assert ((found.scores >= 0) == people.labels[TEST]).mean() > 0.8


# --- covariates ----------------------------------------------------------------------------------


@pytest.fixture
def covariates():
    rng = np.random.default_rng(6)
    people = People(np.arange(60) % 2 == 0, np.arange(60))
    table = pd.DataFrame(
        {
            "age": rng.normal(70, 5, 60) + 6 * people.labels,
            "sex": np.where(rng.random(60) < 0.5, "F", "M"),
            "site": rng.integers(1, 4, 60),
        }
    )
    return table, people


def learn(table, people, words=()):
    settings = [{"C": one} for one in GRID]
    learner = logistic(table, people, words)
    return nested(learner, settings, people, train=TRAIN, test=TEST)


def test_age_alone_tells_the_classes(covariates):
    found = learn(*covariates, words=["site"])
    assert ((found.scores >= 0) == covariates[1].labels[TEST]).mean() >= 0.6


def test_sites_in_numbers_are_names(covariates):
    """A class that only the middle one of three sites has is out of reach of a slope."""
    table, people = covariates
    people = People((table["site"] == 2).to_numpy(), people.persons)
    named, counted = (learn(table[["site"]], people, words) for words in (["site"], ()))
    assert ((named.scores >= 0) == people.labels[TEST]).all()
    assert not ((counted.scores >= 0) == people.labels[TEST]).all()


def test_what_is_missing_takes_the_value_of_the_training_people(covariates):
    table, people = covariates
    holed = table.assign(sex=table["sex"].mask(table.index.isin([1, 50])))
    holed["age"] = table["age"].mask(table.index.isin([2, 51]))
    filled = holed.copy()
    filled.loc[[2, 51], "age"] = holed.loc[TRAIN, "age"].median()
    filled.loc[[1, 50], "sex"] = holed.loc[TRAIN, "sex"].mode()[0]
    fit = logistic(holed, people, ["site"])(TRAIN, TEST, [{"C": 1.0}])
    assert_allclose(fit, logistic(filled, people, ["site"])(TRAIN, TEST, [{"C": 1.0}]), atol=1e-6)


def test_covariates_of_test_people_do_not_reach_the_fit(covariates):
    table, people = covariates
    whole = logistic(table, people)(TRAIN, TEST, [{"C": 1.0}])[0]
    wild = table.astype({"age": float}).copy()
    wild.loc[TEST[1:], "age"] = 1e6
    wild.loc[TEST[1:], "sex"] = "unheard of"
    assert_allclose(logistic(wild, people)(TRAIN, TEST, [{"C": 1.0}])[0][0], whole[0])


def test_an_unknown_word_and_an_empty_column_stop_nothing(covariates):
    table, people = covariates
    table = table.assign(empty=np.nan)
    table.loc[55, "sex"] = "other"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = learn(table, people, ["site"])
    assert np.isfinite(found.scores).all()
