"""Methods text of SPECT: the reference region and the way to the template that were taken."""

import pytest

from bidsapp.report.methods import _percentile, _spect

TABLE = {
    "registration": "linear",
    "resolution_mm": 2.0,
    "intensity": "stored",
    "spect": {"reference": "brain", "percentile": 75.0, "putamen_ml": 10.0, "caudate_ml": 5.0},
}


def said(**own):
    return _spect(TABLE | {"spect": TABLE["spect"] | own}, {})


def test_the_reference_region_is_the_one_that_was_taken():
    assert "the 75th percentile of a reference region: the brain without striata" in said()
    other = said(reference="occipital", percentile=50.0)
    assert "divided by the median of a reference region: the occipital cortex" in other
    assert "without striata" not in other


def test_by_the_t1w_image_the_spect_itself_is_moved_rigidly():
    text = _spect(TABLE | {"registration": "t1w"}, {})
    assert "the SPECT image was registered rigidly to it" in text
    assert "template of the study’s own was carried" in _spect(
        TABLE | {"registration": "t1w", "spect": TABLE["spect"] | {"template": "x.nii"}}, {}
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [("50", "the median"), ("75", "the 75th percentile"), ("61", "the 61st percentile"),
     ("12", "the 12th percentile"), ("93", "the 93rd percentile")],
)  # fmt: skip
def test_percentiles_are_written_as_people_do(value, words):
    assert _percentile(value) == words
