"""The story of a run: what cannot be used is told and the rest goes on; nothing is half-written."""

import errno
import json
import os
import threading
import time
from dataclasses import replace
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import describe, listing, save_scan

from bidsapp import __version__
from bidsapp.diary import Diary
from bidsapp.locks import locked
from bidsapp.participant import describe_dataset, participant
from bidsapp.settings import Settings, load_recipe
from bidsapp.study import deformations_of, limits_of, volumes_of
from bidsapp.workdir import clean_model, clean_people, nodes_dir, redo_people
from models.errors import InputError
from models.grids import full_grid
from pipelines.derivatives import SPACE, write_json
from pipelines.execution import Failure
from pipelines.images import write_nifti

SHAPE, AFFINE = (30, 36, 32), np.diag([4.0, 4, 4, 1])


def volume(shape=SHAPE, affine=AFFINE, value=None):
    if value is None:
        data = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
    else:
        data = np.full(shape, value, np.float32)
    return nib.Nifti1Image(data, affine)


def without_orientation():
    image = volume()
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    return image


# person: (what is in the file, what is said about it)
BROKEN = {
    "text": (b"DICM, or so", "not a readable NIfTI image"),
    "void": (b"", "not a readable NIfTI image"),
    "series": (volume((*SHAPE, 4)), "30x36x32x4 voxels"),
    "zero": (volume(value=0), "every voxel is 0"),
    "nan": (volume(value=np.nan), "every voxel is NaN"),
    "tiny": (volume((9, 9, 9)), "too small for a head"),
    "lost": (without_orientation(), "neither qform nor sform"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory, brainwhy, recipe):
    """A run over people of whom none can be used."""
    folder = tmp_path_factory.mktemp("broken")
    for who, (image, _) in BROKEN.items():
        save_scan(folder / "raw", who, image)
    cut = save_scan(folder / "raw", "cut", volume())
    cut.write_bytes(cut.read_bytes()[:30_000])
    describe(folder / "raw", {who: {"diagnosis": "AD", "age": 70} for who in [*BROKEN, "cut"]})
    before = listing(folder / "raw")
    outcome = brainwhy(
        folder / "raw", folder / "out", "participant", "--recipe", recipe, "--nprocs", 1
    )
    return folder, outcome, before


@pytest.fixture
def settings(tmp_path):
    return Settings(
        bids_dir=tmp_path / "raw", output_dir=tmp_path / "out", levels=("participant",),
        recipe=load_recipe("demo-t1w"), work_dir=tmp_path / "work", command=("brainwhy", "raw"),
    )  # fmt: skip


# --- broken images -------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [*BROKEN, "cut"])
def test_every_broken_image_is_told_with_its_file(broken, who):
    folder, outcome, _ = broken
    words = BROKEN[who][1] if who in BROKEN else "cut short"
    path = folder / f"raw/sub-{who}/anat/sub-{who}_T1w.nii.gz"
    (line,) = [
        line
        for line in outcome.said.splitlines()
        if line.startswith(f"brainwhy: failed: sub-{who}:")
    ]
    assert words in line
    assert str(path) in line


def test_something_failed_is_1(broken):
    assert broken[1].code == 1
    assert "Traceback" not in broken[1].said


def test_nothing_is_half_written(broken):
    folder, _, _ = broken
    assert not list((folder / "out").glob("sub-*/**/*.*"))
    assert not list((folder / "out").rglob("*.part"))


def test_pages_and_logs_tell_it_too(broken):
    folder, _, _ = broken
    for who, (_, words) in BROKEN.items():
        log = json.loads((folder / f"out/logs/participant-{who}.json").read_text())
        (failure,) = log["Failures"]
        assert failure["Participant"] == f"sub-{who}"
        assert words in failure["Message"]
        assert Path(failure["CrashFile"]).exists()
        assert words in (folder / f"out/sub-{who}.html").read_text()


def test_the_dataset_is_not_touched_by_failures(broken):
    folder, _, before = broken
    assert listing(folder / "raw") == before


def test_writing_the_pages_again_keeps_the_failures(broken, brainwhy, recipe):
    folder, _, _ = broken
    page = folder / "out/sub-zero.html"
    page.unlink()
    outcome = brainwhy(
        folder / "raw", folder / "out", "participant", "--recipe", recipe, "--reports-only"
    )
    assert outcome.code == 0
    assert "every voxel is 0" in page.read_text()


def test_group_after_nothing_but_failures(broken, brainwhy, recipe):
    folder, _, _ = broken
    outcome = brainwhy(folder / "raw", folder / "out", "group", "--recipe", recipe)
    assert outcome.code == 64
    assert "make them first" in outcome.said
    assert not (folder / "out/models").exists()


def test_a_link_to_nowhere_fails_alone(brainwhy, recipe, tmp_path):
    raw = describe(tmp_path / "raw")
    save_scan(raw, "zero", volume(value=0))
    link = save_scan(raw, "annexed", b"")
    link.unlink()
    link.symlink_to("../../.git/annex/objects/MD5E-s1--0.nii.gz")
    outcome = brainwhy(raw, tmp_path / "out", "participant", "--recipe", recipe, "--nprocs", 1)
    assert outcome.code == 1
    assert "failed: sub-annexed: " in outcome.said
    assert "datalad get" in outcome.said
    assert "failed: sub-zero: " in outcome.said


def test_who_lacks_the_t1w_image_that_another_modality_goes_by_fails_alone(brainwhy, tmp_path):
    """FLAIR, DWI and SPECT lean on it: a link to nowhere once took everybody along."""
    raw = describe(tmp_path / "raw")
    for who in ("annexed", "zero"):
        for suffix in ("FLAIR", "T1w"):
            path = raw / f"sub-{who}/anat/sub-{who}_{suffix}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(volume(value=0), path)
    link = raw / "sub-annexed/anat/sub-annexed_T1w.nii.gz"
    link.unlink()
    link.symlink_to("../../.git/annex/objects/MD5E-s1--0.nii.gz")
    mask = raw / "derivatives/lst/sub-zero/anat/sub-zero_label-lesion_mask.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.symlink_to("../../.git/annex/objects/MD5E-s2--0.nii.gz")
    outcome = brainwhy(
        raw, tmp_path / "out", "participant", "--recipe", "demo-flair", "--nprocs", 1
    )
    assert outcome.code == 1
    assert "Traceback" not in outcome.said
    assert f"failed: sub-annexed: {link}: is a link to a file that is not here" in outcome.said
    assert "failed: sub-zero: " in outcome.said  # got as far as its own image
    assert f"sub-zero: lesion mask {mask}: is a link to a file that is not here" in outcome.said


# --- refused early -------------------------------------------------------------------------------


@pytest.fixture
def preprocessed(tmp_path):
    """An output folder with registered images of four people that nobody opens."""
    out = describe(
        tmp_path / "out",
        {f"0{i}": {"diagnosis": ["CN", "AD"][i % 2], "age": 70 + i} for i in range(1, 5)},
    )
    res = full_grid(3.0).name
    for i in range(1, 5):
        path = out / f"sub-0{i}/anat/sub-0{i}_space-{SPACE}_res-{res}_desc-preprocLinear_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        write_nifti(path, np.ones((3, 3, 3)), AFFINE)
    return out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('[network]\nname = "boehle2018"', ["no network 'boehle2018'", "boehle2019"]),
        (
            '[network]\nname = "demo"\ndrop = 0.2',
            ["network 'demo'", "drop", "did you mean 'dropout'?"],
        ),
        (
            '[preprocessing]\ngrid = "2mm"\n[network]\nname = "pif"\n'
            "[training.protocol.augmentation]\nflip_probability = 0.5",
            ["patch-individual filters", "must not be mirrored"],
        ),
        ('[regions]\natlas = "AALL"', ["AALL", "no such atlas", "AAL"]),
        ("[training]\nfolds = 3", ["smaller class has 2 people", "3 folds"]),
        ('[cohort]\ntarget = "diagnosys"', ["did you mean 'diagnosis'?"]),
        ('[cohort]\nnegative = "HC"', ["--negative 'HC'", "AD (2), CN (2)"]),
        ('[cohort]\ncovariates = ["aeg"]', ["did you mean 'age'?"]),
        ('[training]\nsplit = "holdout"\ntest_share = 0.05', ["test_share"]),
    ],
)
def test_what_would_fail_after_the_training_is_refused_before(
    brainwhy, recipe, preprocessed, tmp_path, change, words
):
    file = tmp_path / "change.toml"
    file.write_text(change)
    before = listing(preprocessed)
    outcome = brainwhy(
        preprocessed, preprocessed, "group", "--recipe", recipe, "--config-file", file
    )
    assert outcome.code == 64, outcome.said
    for word in words:
        assert word in outcome.said
    assert listing(preprocessed) == before


def test_a_group_dry_run_says_who_and_writes_nothing(brainwhy, recipe, preprocessed):
    before = listing(preprocessed)
    outcome = brainwhy(preprocessed, preprocessed, "group", "--recipe", recipe, "--dry-run")
    assert outcome.code == 0
    assert "2 AD and 2 CN, 4 images, 2 trainings" in outcome.said
    assert listing(preprocessed) == before


@pytest.mark.parametrize("flags", [["--dry-run"], ["--covariates", "aeg"]])
def test_a_run_that_does_nothing_empties_nothing(brainwhy, recipe, preprocessed, flags):
    (preprocessed / ".work").mkdir()
    (preprocessed / ".work/hours").write_text("of work")
    arguments = (preprocessed, preprocessed, "group", "--recipe", recipe, "--clean-workdir")
    brainwhy(*arguments, *flags)
    assert (preprocessed / ".work/hours").exists()


def test_cleaning_the_work_dir_spares_the_work_of_others(settings, tmp_path):
    """Runs that share it may be at work on other people, or on another model."""
    work = settings.work_dir
    ours = [
        "v0.0.1/participant/sub_01",
        f"v{__version__}/participant/sub_01",
        f"v{__version__}/explain_tiny/sub_01_ses_2",
        f"v{__version__}/detect_other/sub_01",
    ]
    model = [f"v{__version__}/group_tiny", "v0.0.1/anomaly_tiny"]
    others = [
        f"v{__version__}/participant/sub_011",
        f"v{__version__}/participant/sub_02",
        f"v{__version__}/explain_tiny/sub_02_ses_01",
        f"v{__version__}/group_tiny2",
        f"v{__version__}/templates",
        "locks",
    ]
    for folder in (*ours, *model, *others):
        (work / folder).mkdir(parents=True)
        (work / folder / "result").write_text("hours of work")
    clean_people(settings, ["01"])
    assert not any((work / folder).exists() for folder in ours)
    assert all((work / folder / "result").exists() for folder in (*model, *others))
    clean_model(settings, "tiny")
    assert not any((work / folder).exists() for folder in model)
    assert all((work / folder / "result").exists() for folder in others)


def test_force_does_again_only_the_people_asked_for(settings):
    folders = [nodes_dir(settings) / f"explain_tiny/sub_{who}" for who in ("01", "01_ses_a", "02")]
    for folder in folders:
        folder.mkdir(parents=True)
    redo_people(settings, "explain_tiny", ["01"])
    assert [folder.exists() for folder in folders] == [False, False, True]


def test_a_run_that_cleans_waits_for_who_works_on_the_same_person(recipe, tmp_path):
    raw = describe(tmp_path / "raw")
    save_scan(raw, "zero", volume(value=0))
    work = tmp_path / f"out/.work/v{__version__}/participant/sub_zero"
    work.mkdir(parents=True)
    (work / "hours").write_text("of work")
    recipe = load_recipe(str(recipe))
    here = Settings(raw, tmp_path / "out", ("participant",), recipe, work.parents[2])
    cleaning = replace(here, clean_workdir=True, nprocs=1)
    thread = threading.Thread(target=participant, args=(cleaning,), daemon=True)
    with locked(here, "sub-zero"):
        thread.start()
        thread.join(3)
        assert thread.is_alive()
        assert (work / "hours").exists()
    thread.join(60)
    assert not thread.is_alive()
    assert not (work / "hours").exists()


def test_what_a_killed_run_left_half_written_is_removed(brainwhy, recipe, tmp_path):
    raw, out = describe(tmp_path / "raw"), tmp_path / "out"
    save_scan(raw, "zero", volume(value=0))
    part = out / "sub-zero/anat/.x_T1w.nii.gz.0123abcd.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    outcome = brainwhy(raw, out, "participant", "--recipe", recipe, "--nprocs", 1)
    assert "1 half-written files" in outcome.said
    assert not part.exists()


VOLUMES = {"regions": {"volumes": {"Hippocampus": "jacobian", "Amygdala": "mm3"}}}


def test_without_registration_there_are_no_volumes_of_it_and_the_run_says_so():
    changes = VOLUMES | {"preprocessing": {"registration": "none"}}
    recipe = load_recipe("t1w").overridden(changes)
    assert volumes_of(recipe) == {"Amygdala": "mm3"}
    assert [one for one in limits_of(recipe) if "volumes of regions by the registration" in one]
    registered = load_recipe("t1w").overridden(VOLUMES)
    assert volumes_of(registered) == VOLUMES["regions"]["volumes"]
    assert limits_of(registered) == []


def test_who_has_no_transform_is_named_and_stops_nobody(tmp_path, capsys):
    table = tmp_path / "cohort.tsv"
    table.write_text("participant_id\tsession_id\nsub-01\tn/a\nsub-02\tses-b\n")
    recipe = load_recipe("demo-t1w").overridden(VOLUMES)
    settings = Settings(tmp_path, tmp_path, ("group",), recipe, tmp_path)
    diary = Diary(settings)
    with pytest.raises(InputError, match="holds no transform to the template"):
        deformations_of(settings, table, diary)
    stem = f"sub-01_from-T1w_to-{SPACE}_mode-image_res-3mm_desc-nonlinear_xfm.h5"
    (tmp_path / "sub-01/anat").mkdir(parents=True)
    (tmp_path / "sub-01/anat" / stem).write_bytes(b"")
    found = deformations_of(settings, table, diary)
    assert found.files == {("01", ""): str(tmp_path / "sub-01/anat" / stem)}
    assert found.grid["name"] == "3mm"
    assert "sub-02_ses-b: has no transform" in capsys.readouterr().err
    elsewhere = recipe.overridden({"regions": {"volumes": {"Hipocampus": "jacobian"}}})
    with pytest.raises(InputError, match="did you mean 'Hippocampus'"):
        deformations_of(replace(settings, recipe=elsewhere), table, diary)


def test_another_registration_is_asked_for_with_its_command(brainwhy, preprocessed):
    outcome = brainwhy(preprocessed, preprocessed, "group", "--recipe", "demo-t1w")
    assert outcome.code == 64
    assert "nonlinear registration at 3 mm" in outcome.said
    assert "participant --recipe demo-t1w" in outcome.said


def test_both_levels_check_the_table_before_the_long_work(brainwhy, tmp_path, recipe):
    raw = describe(tmp_path / "raw", {"zero": {"group": "AD"}})
    save_scan(raw, "zero", volume(value=0))
    arguments = (raw, tmp_path / "out", "participant", "group", "--recipe", recipe, "--nprocs", 1)
    outcome = brainwhy(*arguments)
    assert outcome.code == 64
    assert "no column 'diagnosis'" in outcome.said
    assert not (tmp_path / "out").exists()


def test_a_second_level_that_cannot_run_is_a_failure_and_no_refusal(brainwhy, tmp_path, recipe):
    people = {"a": {"diagnosis": "AD", "age": 70}, "b": {"diagnosis": "CN", "age": 71}}
    raw = describe(tmp_path / "raw", people)
    for who in people:
        save_scan(raw, who, volume(value=0))
    arguments = (raw, tmp_path / "out", "participant", "group", "--recipe", recipe, "--nprocs", 1)
    outcome = brainwhy(*arguments)
    assert outcome.code == 1  # 64 would say that nothing was run
    assert "failed: sub-a" in outcome.said
    assert "make them first" in outcome.said


def test_a_graph_is_not_worth_a_crash(brainwhy, tmp_path, recipe, monkeypatch):
    monkeypatch.setenv("PATH", "/no/such/folder")  # without Graphviz
    raw = describe(tmp_path / "raw")
    save_scan(raw, "zero", volume(value=0))
    outcome = brainwhy(
        raw, tmp_path / "out", "participant", "--recipe", recipe, "--nprocs", 1, "--write-graph"
    )
    assert outcome.code == 1
    assert "Graphviz" in outcome.said
    assert "failed: sub-zero" in outcome.said


# --- only the words ------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["participant", "group"])
def test_boilerplate_only(brainwhy, tmp_path, level):
    raw = describe(tmp_path / "raw")
    save_scan(raw, "01", b"not opened")
    arguments = (raw, tmp_path / "out", level, "--recipe", "ad-t1w", "--boilerplate-only")
    assert brainwhy(*arguments).code == 0
    assert "registered" in (tmp_path / "out/logs/CITATION.md").read_text()
    assert not list((tmp_path / "out").glob("sub-*"))


# --- the diary -----------------------------------------------------------------------------------


def test_a_persons_log_holds_that_person_only(settings, tmp_path, capsys):
    diary = Diary(settings)
    for sentence in ("sub-1: a", "sub-10: b", "about everybody"):
        diary.warn(sentence)
    diary.fail(
        [
            Failure("participant.sub_1.t1w_wf.conform", "cut short", tmp_path / "c1"),
            Failure("participant.sub_10.t1w_ses_1_wf.conform", "zero", tmp_path / "c2"),
        ]
    )
    diary.write(tmp_path / "1.json", "sub-1")
    diary.write(tmp_path / "all.json")
    log = json.loads((tmp_path / "1.json").read_text())
    assert log["Warnings"] == ["sub-1: a", "about everybody"]
    assert [failure["Message"] for failure in log["Failures"]] == ["cut short"]
    everything = json.loads((tmp_path / "all.json").read_text())
    assert len(everything["Warnings"]) == 3
    assert len(everything["Failures"]) == 2
    said = capsys.readouterr().err
    assert "warning: sub-10: b" in said
    assert "failed: sub-10: zero (details:" in said


def test_the_log_says_what_ran_and_with_what(settings, tmp_path):
    Diary(settings).write(tmp_path / "log.json")
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["Command"] == ["brainwhy", "raw"]
    assert log["Recipe"]["name"] == "demo-t1w"
    assert {"brainwhy", "python", "torch", "antspyx", "nipype"} <= set(log["Versions"])
    assert "not installed" not in log["Versions"].values()
    assert log["StartTime"] <= log["EndTime"]


# --- two runs at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("shared", ["output_dir", "work_dir"])
def test_the_same_person_waits_for_a_run_that_shares_a_folder(settings, tmp_path, capsys, shared):
    first = replace(settings, output_dir=tmp_path / "out", work_dir=tmp_path / "work")
    second = replace(first, output_dir=tmp_path / "out2", work_dir=tmp_path / "work2")
    second = replace(second, **{shared: getattr(first, shared)})
    ended = threading.Event()

    def other():
        with locked(second, "sub-01"):
            ended.set()

    thread = threading.Thread(target=other)
    with locked(first, "sub-01"):
        thread.start()
        assert not ended.wait(0.3)
        with locked(second, "sub-02"):  # another person does not wait
            pass
    assert ended.wait(5)
    thread.join()
    assert "sub-01 is being processed by another run" in capsys.readouterr().err


def test_one_folder_of_two_names_is_locked_once(settings, tmp_path):
    (tmp_path / "out/.work").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out/.work")
    here = replace(settings, output_dir=tmp_path / "out", work_dir=tmp_path / "link")
    for _ in range(2):
        with locked(here, "sub-01"):
            pass


def test_of_runs_that_begin_together_one_describes_the_dataset(settings, tmp_path, monkeypatch):
    """Forked, so that they really begin together."""
    raw = describe(tmp_path / "raw", {"01": {"age": 70}})
    log, replaced = tmp_path / "log", os.replace

    def slowly(source, target):
        with log.open("a") as stream:
            stream.write(f"{Path(target).name}\n")
        time.sleep(0.05)
        replaced(source, target)

    monkeypatch.setattr("pipelines.partial.os.replace", slowly)
    context = get_context("fork")
    start = context.Barrier(6)

    def begin():
        start.wait()
        describe_dataset(replace(settings, bids_dir=raw))

    runs = [context.Process(target=begin) for _ in range(6)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0] * 6
    written = sorted(log.read_text().split())
    assert written == sorted(set(written))
    assert {"dataset_description.json", "participants.tsv"} <= set(written)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_and_no_obstacle(
    settings, tmp_path, capsys, monkeypatch, number
):
    def refuse(_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr("filelock._unix.lock_fd_nonblocking", refuse)
    with locked(replace(settings, output_dir=tmp_path, work_dir=tmp_path / ".work"), "sub-01"):
        pass
    assert "start sub-01 once at a time" in capsys.readouterr().err
    monkeypatch.undo()  # nothing is left behind that would stop a later run
    with locked(replace(settings, output_dir=tmp_path, work_dir=tmp_path / ".work"), "sub-01"):
        pass


def test_a_stored_model_of_other_images_is_not_used(brainwhy, tmp_path, recipe):
    raw = describe(tmp_path / "raw")
    save_scan(raw, "zero", volume(value=0))
    made = {"registration": "nonlinear", "resolution_mm": 1.0}
    theirs = {"name": "other", "input": {"modality": "T1w"}, "preprocessing": made}
    card = {"Name": "other", "Folds": 0, "Recipe": theirs}
    write_json(tmp_path / "out/models/model-other/model-other_modelcard.json", card)
    arguments = (raw, tmp_path / "out", "participant", "--recipe", recipe, "--dry-run")
    quiet = brainwhy(*arguments)
    assert quiet.code == 0
    assert "registration = nonlinear" in quiet.said
    asked = brainwhy(*arguments, "--model", "other")
    assert asked.code == 64
    assert "--model other" in asked.said
    assert "--recipe other" in asked.said


def test_a_model_that_brings_code_runs_it_only_when_named(brainwhy, tmp_path, recipe):
    raw = describe(tmp_path / "raw")
    save_scan(raw, "zero", volume(value=0))
    theirs = load_recipe(str(recipe)).as_dict()
    network = {"file": "model-other_network.py", "sha256": "0" * 64}
    card = {"Name": "other", "Folds": 0, "Recipe": theirs, "Network": network}
    write_json(tmp_path / "out/models/model-other/model-other_modelcard.json", card)
    arguments = (raw, tmp_path / "out", "participant", "--recipe", recipe, "--dry-run")
    quiet = brainwhy(*arguments)
    assert quiet.code == 0
    assert "give --model other to let it run" in quiet.said
    assert "then explained" not in quiet.said
    assert "then explained with model other" in brainwhy(*arguments, "--model", "other").said


def test_a_recipe_that_names_the_same_file_lets_it_run(brainwhy, tmp_path, recipe):
    raw = describe(tmp_path / "raw")
    save_scan(raw, "zero", volume(value=0))
    (tmp_path / "net.py").write_text("def build(shape, **options): pass\n")
    mine = tmp_path / "mine.toml"
    mine.write_text(recipe.read_text().replace('name = "demo"', 'file = "net.py"'))
    sealed = sha256((tmp_path / "net.py").read_bytes()).hexdigest()
    network = {"file": "model-tiny_network.py", "sha256": sealed}
    theirs = load_recipe(str(mine)).as_dict()
    card = {"Name": "tiny", "Folds": 0, "Recipe": theirs, "Network": network}
    write_json(tmp_path / "out/models/model-tiny/model-tiny_modelcard.json", card)
    said = brainwhy(raw, tmp_path / "out", "participant", "--recipe", mine, "--dry-run").said
    assert "then explained with model tiny" in said
