"""Sites of a cohort: who cannot be harmonised, and cohorts in which nothing can be parted."""

import pandas as pd
import pytest

from bidsapp.cohort import CohortTable, build_cohort
from bidsapp.group import _sites
from bidsapp.settings import Cohort, Recipe
from models.errors import InputError
from models.training.splits import Plan, split_people

HARMONISED = {"cohort": {"site": "scanner"}, "harmonisation": {"method": "combat"}}


def cohort(scanner):
    rows = pd.DataFrame(
        {
            "participant_id": [f"sub-{k:02d}" for k in range(16)],
            "positive": [k % 2 == 0 for k in range(16)],
            "train": True,
            "scanner": scanner,
        }
    )
    found = CohortTable(rows, [], {})
    return found, split_people(found.labels, Plan(folds=2, validation_share=0))


def test_sites_that_are_spread_over_the_classes_are_fine():
    found, splits = cohort([k // 2 % 2 for k in range(16)])
    assert _sites(Recipe().overridden(HARMONISED), found, splits) == []


def test_a_cohort_whose_sites_are_its_classes_is_warned_of_loudly():
    found, splits = cohort(["AB"[k % 2] for k in range(16)])
    (said,) = _sites(Recipe().overridden(HARMONISED), found, splits)
    assert said.startswith("SITE AND DIAGNOSIS CANNOT BE TOLD APART")
    # Nobody asked for harmonisation: nothing to say.
    assert _sites(Recipe().overridden({"cohort": {"site": "scanner"}}), found, splits) == []


def test_sites_that_go_with_the_classes_are_warned_of():
    found, splits = cohort(["B" if k % 2 or k < 4 else "A" for k in range(16)])
    (said,) = _sites(Recipe().overridden(HARMONISED), found, splits)
    assert "Cramér's V 0.77; positive of A 100%, B 20%" in said


def test_a_site_of_one_person_is_refused_before_anything_is_trained():
    found, splits = cohort(["C", *["A", "B"] * 7, "A"])
    with pytest.raises(InputError, match=r"images of site 'C', and harmonisation needs at least 2"):
        _sites(Recipe().overridden(HARMONISED), found, splits)


@pytest.fixture
def folder(tmp_path):
    table = pd.DataFrame(
        {
            "participant_id": [f"sub-{k}" for k in range(4)],
            "diagnosis": ["AD", "CN", "AD", "CN"],
            "scanner": ["A", "A", "n/a", "B"],
        }
    )
    table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    return tmp_path, {(str(k), ""): tmp_path / f"{k}.nii.gz" for k in range(4)}


def test_who_has_no_site_is_left_out_only_where_images_are_harmonised(folder):
    path, images = folder
    options = Cohort(target="diagnosis", positive="AD", negative="CN", site="scanner")
    plain = build_cohort(path, images, options)
    assert len(plain.rows) == 4
    assert "scanner" in plain.rows
    harmonised = build_cohort(path, images, options, preserve=())
    assert set(harmonised.labels) == {"0", "1", "3"}
    assert harmonised.excluded == {"sub-2": "scanner is missing, by which images are harmonised"}
    with pytest.raises(InputError, match=r"\[harmonisation\] preserve: .* no column 'age'"):
        build_cohort(path, images, options, preserve=("age",))
