"""The cohort: every mismatch of table and disk is told in plain language, nobody is lost unsaid."""

from pathlib import Path

import pandas as pd
import pytest

from bidsapp.cohort import build_cohort, read_participants
from bidsapp.settings import Cohort, Exclude, Sessions, Uses
from models.errors import InputError
from models.training.splits import Plan, split_people
from pipelines.derivatives import write_table

OPTIONS = Cohort(target="diagnosis", positive="AD", negative="CN", covariates=("age",))
ROWS = {
    "sub-01": ("AD", 70),
    "sub-02": ("CN", 71),
    "sub-03": ("AD", 72),
    "sub-04": ("CN", 73),
}


def table(folder, rows=ROWS, columns=("diagnosis", "age")):
    frame = pd.DataFrame([(who, *values) for who, values in rows.items()])
    frame.columns = ["participant_id", *columns]
    write_table(folder / "participants.tsv", frame)
    return folder


def images(*people):
    """Registered images of people; ``01`` or ``01/2`` for a session."""
    keys = [tuple((one + "/").split("/")[:2]) for one in people]
    return {key: Path(f"/out/{'-'.join(key)}.nii.gz") for key in keys}


EVERYBODY = images("01", "02", "03", "04")


def complaint(folder, options=OPTIONS, found=EVERYBODY, **more):
    with pytest.raises(InputError) as caught:
        build_cohort(folder, found, options, **more)
    return str(caught.value)


# --- the table -----------------------------------------------------------------------------------


def test_missing_table(tmp_path):
    said = complaint(tmp_path)
    assert f"{tmp_path}/participants.tsv: missing" in said
    assert "participant_id" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a tab-separated table in UTF-8"),
        (b"participant_id\tdiagnosis\nsub-01\tJos\xe9\n", "not a tab-separated table in UTF-8"),
        (b"participant_id\tdiagnosis\nsub-01\tAD\tx\nsub-02\tCN\ty\n", "more cells than"),
        (b"participant_id\tdiagnosis\nsub-01\tAD\nsub-02\tCN\ty\n", "not a tab-separated table"),
        (b"participant_id,diagnosis\nsub-01,AD\n", "begins with 'participant_id,diagnosis'"),
        (
            b"subject\tdiagnosis\nsub-01\tAD\n",
            "no column participant_id",
        ),
        (b"participant_id\tage\nsub-01\t3\nsub-01\t4\n", "sub-01 stands there twice"),
        (b"participant_id\tage\nsub-01\t3\n01\t4\n", "sub-01 stands there twice"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, content, words):
    (tmp_path / "participants.tsv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_participants(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "participants.tsv"))
    assert words in str(caught.value)


def test_spreadsheets_habits_do_not_matter(tmp_path):
    content = b"\xef\xbb\xbfparticipant_id\tdiagnosis\tage\r\n01\tAD\t1\r\nsub-02\tCN\tn/a\r\n"
    (tmp_path / "participants.tsv").write_bytes(content)  # BOM, CRLF, no prefix
    read = read_participants(tmp_path)
    assert read["participant_id"].tolist() == ["sub-01", "sub-02"]
    assert read["diagnosis"].tolist() == ["AD", "CN"]
    assert read["age"].isna().tolist() == [False, True]


# --- the columns ---------------------------------------------------------------------------------


def test_no_target_is_asked_for(tmp_path):
    said = complaint(table(tmp_path), Cohort())
    assert "--target COLUMN" in said
    assert "participants.tsv" in said


def test_missing_target_column_suggests_the_nearest(tmp_path):
    said = complaint(table(tmp_path), Cohort(target="diagnosys", positive="AD", negative="CN"))
    assert "--target" in said
    assert "no column 'diagnosys'" in said
    assert "did you mean 'diagnosis'?" in said


def test_missing_target_column_without_a_near_one_lists_all(tmp_path):
    said = complaint(table(tmp_path), Cohort(target="zzz", positive="AD", negative="CN"))
    assert "it has: participant_id, diagnosis, age" in said


def test_missing_covariate(tmp_path):
    options = Cohort(target="diagnosis", positive="AD", negative="CN", covariates=("ages",))
    said = complaint(table(tmp_path), options)
    assert "--covariates" in said
    assert "did you mean 'age'?" in said


@pytest.mark.parametrize(("positive", "flag"), [("PD", "--positive 'PD'"), ("", "--positive ''")])
def test_a_value_nobody_has_lists_what_there_is(tmp_path, positive, flag):
    said = complaint(table(tmp_path), Cohort(target="diagnosis", positive=positive, negative="CN"))
    assert flag in said
    assert "AD (2), CN (2)" in said


def test_one_class_only_in_the_table(tmp_path):
    said = complaint(table(tmp_path, dict.fromkeys(ROWS, ("AD", 70))))
    assert "--negative 'CN'" in said
    assert "AD (4)" in said


def test_one_class_only_on_disk(tmp_path):
    said = complaint(table(tmp_path), found=images("01", "03"))
    assert "nobody with diagnosis = CN has a preprocessed image" in said
    assert "participant level" in said


def test_a_class_against_itself(tmp_path):
    said = complaint(table(tmp_path), Cohort(target="diagnosis", positive="AD", negative="AD"))
    assert "'AD'" in said
    assert "are one in file names" in said


def test_classes_that_one_file_name_cannot_tell_apart(tmp_path):
    rows = {"sub-01": ("1+", 70), "sub-02": ("1-", 71)}
    said = complaint(
        table(tmp_path, rows), Cohort(target="diagnosis", positive="1+", negative="1-")
    )
    assert "are one in file names" in said


def test_the_tenth_session_comes_after_the_second(tmp_path):
    images = {("01", s): tmp_path / s for s in ("10", "1", "2")} | {("02", ""): tmp_path / "x"}
    options = Cohort("diagnosis", "AD", "CN", sessions=Sessions(positive=Uses(test="last")))
    rows = {"sub-01": ("AD", 70), "sub-02": ("CN", 71)}
    cohort = build_cohort(table(tmp_path, rows), images, options).rows
    assert cohort.loc[cohort["test"], "session_id"].tolist() == ["ses-10", ""]


def test_a_covariate_may_not_take_the_name_of_a_column_of_ours(tmp_path):
    folder = table(tmp_path)
    path = folder / "participants.tsv"
    path.write_text(path.read_text().replace("age", "score"))
    options = Cohort(target="diagnosis", positive="AD", negative="CN", covariates=("score",))
    assert "may not be called 'score'" in complaint(folder, options)


def test_numbers_are_classes_too(tmp_path):
    rows = {"sub-01": (1, 70), "sub-02": (0, 71), "sub-03": ("n/a", 72)}
    cohort = build_cohort(
        table(tmp_path, rows),
        images("01", "02"),
        Cohort(target="diagnosis", positive="1", negative="0"),
    )
    assert cohort.labels == {"01": True, "02": False}


def test_na_is_missing_but_NA_is_a_word(tmp_path):
    rows = {"sub-01": ("NA", 70), "sub-02": ("CN", 71), "sub-03": ("n/a", 70)}
    cohort = build_cohort(
        table(tmp_path, rows),
        images("01", "02", "03"),
        Cohort(target="diagnosis", positive="NA", negative="CN"),
    )
    assert cohort.labels == {"01": True, "02": False}
    assert cohort.excluded == {"sub-03": "diagnosis is missing"}


# --- table against disk --------------------------------------------------------------------------


def test_everything_fits(tmp_path):
    cohort = build_cohort(table(tmp_path), EVERYBODY, OPTIONS)
    assert cohort.labels == {"01": True, "02": False, "03": True, "04": False}
    assert cohort.warnings == []
    assert cohort.excluded == {}
    assert cohort.rows["age"].tolist() == [70, 71, 72, 73]
    assert cohort.rows["image"].tolist() == [str(EVERYBODY[who, ""]) for who in cohort.labels]


def test_a_person_in_the_table_but_not_on_disk_is_said(tmp_path):
    cohort = build_cohort(table(tmp_path), images("01", "02", "03"), OPTIONS)
    assert cohort.excluded == {"sub-04": "in participants.tsv, but without preprocessed image"}
    assert any("sub-04 is left out" in sentence for sentence in cohort.warnings)
    assert "04" not in cohort.labels


def test_a_person_on_disk_but_not_in_the_table_is_said(tmp_path):
    found = EVERYBODY | images("05")
    cohort = build_cohort(table(tmp_path), found, OPTIONS)
    assert cohort.excluded == {"sub-05": "not in participants.tsv"}
    assert any("sub-05 is left out" in sentence for sentence in cohort.warnings)
    assert "05" not in cohort.labels


def test_a_person_of_a_third_class_is_said(tmp_path):
    rows = ROWS | {"sub-05": ("MCI", 70)}
    cohort = build_cohort(table(tmp_path, rows), EVERYBODY | images("05"), OPTIONS)
    assert cohort.excluded == {"sub-05": "diagnosis is 'MCI', neither CN nor AD"}


def test_a_person_of_a_third_class_without_image_is_not_worth_a_word(tmp_path):
    cohort = build_cohort(table(tmp_path, ROWS | {"sub-05": ("MCI", 70)}), EVERYBODY, OPTIONS)
    assert cohort.excluded == {}


def test_a_missing_age_excludes_from_the_statistics_only(tmp_path):
    rows = ROWS | {"sub-03": ("AD", "n/a")}
    cohort = build_cohort(table(tmp_path, rows), EVERYBODY, OPTIONS)
    assert "03" in cohort.labels
    assert cohort.excluded == {}
    assert cohort.warnings == ["sub-03: age is missing; left out of the statistics only"]


def test_an_age_that_is_no_number_is_said(tmp_path):
    rows = ROWS | {"sub-03": ("AD", "90+")}
    cohort = build_cohort(table(tmp_path, rows), EVERYBODY, OPTIONS)
    assert cohort.warnings == ["sub-03: age is '90+'; left out of the statistics only"]


def test_a_covariate_of_two_words_is_fine_and_of_three_is_refused(tmp_path):
    def rows(words):
        return {who: (ROWS[who][0], word) for who, word in zip(ROWS, words, strict=True)}

    assert build_cohort(table(tmp_path, rows("FMFM")), EVERYBODY, OPTIONS).warnings == []
    said = complaint(table(tmp_path, rows("abcd")))
    assert "column 'age'" in said
    assert "4 different words (a, b, c, d, ...)" in said


def test_chosen_participants_only(tmp_path):
    cohort = build_cohort(table(tmp_path), EVERYBODY, OPTIONS, ("01", "02"))
    assert list(cohort.labels) == ["01", "02"]
    assert cohort.excluded == {}


def test_a_chosen_participant_without_image_is_named(tmp_path):
    said = complaint(table(tmp_path), participants=("01", "02", "09"))
    assert "--participant-label" in said
    assert "sub-09" in said
    assert "participant level" in said


# --- sessions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test", "used"),
    [
        ("all", "first", [(True, True), (True, False)]),
        ("first", "last", [(True, False), (False, True)]),
        ("last", "last", [(False, False), (True, True)]),
    ],
)
def test_sessions_are_chosen_per_use(tmp_path, train, test, used):
    options = Cohort("diagnosis", "AD", "CN", sessions=Sessions(positive=Uses(train, test)))
    cohort = build_cohort(table(tmp_path), images("01/1", "01/2", "02"), options)
    mine = cohort.rows[cohort.rows["participant_id"] == "sub-01"]
    assert list(zip(mine["train"], mine["test"], strict=True)) == used
    other = cohort.rows[cohort.rows["participant_id"] == "sub-02"].iloc[0]
    assert (other["session_id"], other["train"], other["test"]) == ("", True, True)


def test_everybody_is_tested_on_one_image(tmp_path):
    found = images("01/1", "01/2", "01/3", "02", "03/1", "04/2", "04/1")
    cohort = build_cohort(table(tmp_path), found, OPTIONS)
    assert cohort.rows.groupby("participant_id")["test"].sum().eq(1).all()
    assert len(cohort.rows) == 7


def test_all_sessions_of_a_person_share_the_fold(tmp_path):
    found = images("01/1", "01/2", "02/1", "02/2", "03", "04")
    cohort = build_cohort(table(tmp_path), found, OPTIONS)
    for split in split_people(cohort.labels, Plan(folds=2, validation_share=0)):
        assert set(split.roles) == {"01", "02", "03", "04"}  # people, never images


def test_fewer_people_than_folds(tmp_path):
    cohort = build_cohort(table(tmp_path), EVERYBODY, OPTIONS)
    with pytest.raises(InputError, match="smaller class has 2 people, fewer than the 5 folds"):
        split_people(cohort.labels, Plan(folds=5))


def test_a_covariate_that_is_the_same_for_everybody(tmp_path):
    rows = {"sub-01": ("AD", 70), "sub-02": ("CN", 70)}
    options = Cohort(target="diagnosis", positive="AD", negative="CN", covariates=("age",))
    assert "the same for everybody" in complaint(table(tmp_path, rows), options)


# --- volumes of regions --------------------------------------------------------------------------


def test_volumes_come_along_as_they_are(tmp_path):
    volumes = (1, 2, "n/a", 4)
    rows = {who: (*ROWS[who], one) for who, one in zip(ROWS, volumes, strict=True)}
    folder = table(tmp_path, rows, ("diagnosis", "age", "mm3"))
    found = build_cohort(folder, EVERYBODY, OPTIONS, volumes=("mm3", "age"))
    assert list(found.rows["mm3"].fillna(-1)) == [1, 2, -1, 4]
    assert list(found.rows["age"]) == [70, 71, 72, 73]
    assert not found.warnings


def test_a_column_of_volumes_must_be_there(tmp_path):
    said = complaint(table(tmp_path), volumes=("agee",))
    assert "[regions] volumes" in said
    assert "did you mean 'age'?" in said


def test_volumes_of_the_registration_need_no_column(tmp_path):
    found = build_cohort(table(tmp_path), EVERYBODY, OPTIONS, volumes=("jacobian", "age"))
    assert "jacobian" not in found.rows


def test_a_column_may_not_be_called_as_the_word_is(tmp_path):
    rows = {who: (*ROWS[who], 1.0) for who in ROWS}
    folder = table(tmp_path, rows, ("diagnosis", "age", "jacobian"))
    said = complaint(folder, volumes=("jacobian",))
    assert "has a column 'jacobian'" in said
    assert "rename the column" in said
    assert len(build_cohort(folder, EVERYBODY, OPTIONS).rows) == 4  # nobody asked for it


# --- exclusion -----------------------------------------------------------------------------------


def visits(folder, person, **columns):
    write_table(folder / person / f"{person}_sessions.tsv", pd.DataFrame(columns))


def without(**rules):
    return Cohort("diagnosis", "AD", "CN", exclude=Exclude(**rules))


def test_controls_who_convert_are_left_out(tmp_path):
    folder = table(tmp_path, ROWS | {"sub-05": ("CN", 74)})
    visits(folder, "sub-02", session_id=["ses-1", "ses-2"], diagnosis=["CN", "AD"])
    visits(folder, "sub-03", session_id=["ses-1", "ses-2"], diagnosis=["AD", "AD"])
    visits(folder, "sub-04", session_id=["ses-1"], diagnosis=["CN"])
    found = images("01", "02/1", "02/2", "03/1", "04/1", "05")
    cohort = build_cohort(folder, found, without(negative={"diagnosis": ["MCI", "AD"]}))
    assert cohort.excluded == {"sub-02": "diagnosis is AD in ses-2 ([cohort.exclude])"}
    assert set(cohort.labels) == {"01", "03", "04", "05"}
    assert any("sub-02 is left out: diagnosis is AD in ses-2" in one for one in cohort.warnings)


@pytest.mark.parametrize("value", [70, 70.0, "70", [70, "x"]])
def test_a_rule_over_participants(tmp_path, value):
    folder = table(tmp_path, ROWS | {"sub-05": ("AD", 75)})
    found = images("01", "02", "03", "04", "05")
    cohort = build_cohort(folder, found, without(everybody={"age": value}))
    assert cohort.excluded == {"sub-01": "age is 70 ([cohort.exclude])"}
    untouched = build_cohort(folder, found, without(negative={"age": value}))
    assert not untouched.excluded


def test_rules_about_columns_that_are_not_there(tmp_path):
    folder = table(tmp_path)
    said = complaint(folder, without(everybody={"ages": 70}))
    assert "[cohort.exclude]" in said
    assert "nobody has a sessions.tsv" in said
    visits(folder, "sub-02", session_id=["1"], convrted=["no"])
    said = complaint(folder, without(everybody={"converted": "yes"}))
    assert "did you mean 'convrted'?" in said


def test_a_class_that_is_ruled_out_whole(tmp_path):
    said = complaint(table(tmp_path), without(negative={"age": [71, 73]}))
    assert "nobody with diagnosis = CN" in said
