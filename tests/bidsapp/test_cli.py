"""The command line says what is wrong in a sentence, leaves with 0, 1 or 64, and loads late."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import describe, listing, save_scan

from bidsapp import __version__, cli
from models.errors import InputError

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "nipype", "bids", "ants", "nibabel", "numpy", "pandas", "matplotlib")


@pytest.fixture
def dataset(tmp_path):
    """A dataset of two people whose images nobody opens."""
    raw = describe(tmp_path / "raw", {"01": {"diagnosis": "AD"}, "02": {"diagnosis": "CN"}})
    for who in ("01", "02"):
        save_scan(raw, who, b"not opened")
    return raw


def parsed(*arguments):
    """Settings of a call that is not run."""
    options = cli.parser().parse_args(["raw", "out", "participant", *arguments])
    options.work_dir = options.work_dir or options.output_dir / ".work"
    return cli.settings(options, ())


# --- light ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "--version", "--list-recipes"])
def test_help_takes_no_second_and_loads_nothing_heavy(flag):
    code = (
        "import sys\n"
        "from bidsapp.cli import main\n"
        "try:\n"
        f"    main([{flag!r}])\n"
        "except SystemExit as leaving:\n"
        f"    print('loaded:', [m for m in {HEAVY} if m in sys.modules], leaving.code)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.stdout.splitlines()[-1] == "loaded: [] 0", run.stdout + run.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_version_and_recipes_are_named(brainwhy):
    assert brainwhy("--version").out == f"brainwhy {__version__}\n"
    listed = brainwhy("--list-recipes").out.splitlines()
    assert [line.split()[0] for line in listed] == sorted(line.split()[0] for line in listed)
    assert {"ad-t1w", "demo-t1w", "t1w"} <= {line.split()[0] for line in listed}


def test_help_has_its_groups_and_the_exit_codes(brainwhy):
    text = brainwhy("--help").out
    for group in ("what to do", "which data", "resources", "running"):
        assert f"{group}:" in text
    assert "Exit codes: 0 done, 1" in " ".join(text.split())
    assert "64" in text


# --- argparse ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "required"),
        (["raw", "out"], "required"),
        (["raw", "out", "patient"], "patient"),
        (["raw", "out", "participant", "--no-such-flag"], "--no-such-flag"),
        (["raw", "out", "participant", "--nprocs", "0"], "'0' is not a positive number"),
        (["raw", "out", "participant", "--nprocs", "two"], "'two' is not a positive number"),
        *[
            (["raw", "out", "participant", f"--mem={amount}"], "is not a number of GB from 0.1 on")
            for amount in ("-4", "0", "0.001", "nan", "inf", "4G")
        ],
        (["raw", "out", "participant", "--random-seed", "x"], "--random-seed"),
        (["raw", "out", "participant", "--partic", "01"], "--partic"),
    ],
)
def test_a_wrong_command_line_is_64(brainwhy, arguments, named):
    outcome = brainwhy(*arguments)
    assert outcome.code == 64
    assert named in outcome.said
    assert "usage: brainwhy" in outcome.said


def test_both_spellings_of_the_standard_flags():
    for dashed in (
        "--participant-label", "--session-label", "--bids-filter-file", "--work-dir", "--nprocs",
        "--n-cpus", "--omp-nthreads", "--use-plugin",
    ):  # fmt: skip
        value = "1"
        first, second = (
            vars(cli.parser().parse_args(["raw", "out", "participant", flag, value]))
            for flag in (dashed, "--" + dashed[2:].replace("-", "_"))
        )
        assert first == second, dashed
    assert parsed("--subject-label", "sub-01").participants == ("01",)


def test_prefixes_are_optional():
    settings = parsed("--participant-label", "sub-01", "02", "--session-label", "ses-a", "b")
    assert settings.participants == ("01", "02")
    assert settings.sessions == ("a", "b")


def test_levels_have_two_names_and_one_order():
    for levels in (["group", "participant"], ["dataset", "subject"], ["participant", "group"]):
        options = cli.parser().parse_args(["raw", "out", *levels])
        options.work_dir = Path("out/.work")
        assert cli.settings(options, ()).levels == ("participant", "group")


def test_flags_lie_over_the_file_and_the_file_over_the_recipe(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[cohort]\ntarget = "group"\npositive = "PD"\n[training]\nfolds = 4\n')
    settings = parsed(
        "--recipe", "demo-t1w", "--config-file", str(file), "--positive", "MSA",
        "--covariates", "age", "--atlas", "HarvardOxford", "--sloppy",
    )  # fmt: skip
    cohort = settings.recipe.cohort
    assert (cohort.target, cohort.positive, cohort.negative) == ("group", "MSA", "CN")
    assert cohort.covariates == ("age",)
    assert settings.recipe.training.folds == 4
    assert settings.recipe.regions.atlas == "HarvardOxford"
    assert settings.recipe.statistics.permutations == 100
    assert settings.recipe.network == {"name": "demo"}


def test_flags_of_other_apps_change_nothing(tmp_path):
    more = ["--notrack", "--resource-monitor", "--skip_bids_validation"]
    more += ["--bids-database-dir", str(tmp_path / "none")]
    assert parsed(*more) == parsed()
    assert not (tmp_path / "none").exists()


def test_low_memory_is_one_step_at_a_time_in_small_blocks():
    settings = parsed("--low-mem", "--nprocs", "8", "--sloppy")
    assert settings.nprocs == 1
    assert settings.recipe.statistics.memory_mb == cli.LOW_MEMORY_MB
    assert settings.recipe.statistics.permutations == 100
    assert parsed("--nprocs", "8").nprocs == 8


def test_threads_of_a_process_are_taken_off_the_processes(monkeypatch):
    monkeypatch.setattr("bidsapp.machine.cpu_count", lambda: 6)
    assert parsed().nprocs == 6
    assert parsed("--omp-nthreads", "4").nprocs == 1
    assert parsed("--omp-nthreads", "3").nprocs == 2
    assert parsed("--omp-nthreads", "3", "--nprocs", "5").nprocs == 5


def test_no_covariates_can_be_asked_for():
    assert parsed("--recipe", "demo-t1w", "--covariates").recipe.cohort.covariates == ()


def test_filters_plugin_and_links_are_read(tmp_path):
    filters, plugin = tmp_path / "f.json", tmp_path / "p.json"
    filters.write_text(json.dumps({"t1w": {"acquisition": "mprage"}}))
    plugin.write_text(json.dumps({"plugin": "SLURM", "plugin_args": {"template": "x"}}))
    settings = parsed(
        "--bids-filter-file", str(filters), "--use-plugin", str(plugin),
        "--dataset-links", "raw=https://example.org/ds",
    )  # fmt: skip
    assert settings.filters == {"t1w": {"acquisition": "mprage"}}
    assert (settings.plugin, settings.plugin_args) == ("SLURM", {"template": "x"})
    assert settings.dataset_links == {"raw": "https://example.org/ds"}


def test_plain_call_takes_the_generic_recipe_and_the_default_folders():
    settings = parsed()
    assert settings.recipe.name == "t1w"
    assert settings.work_dir == settings.output_dir / ".work"
    assert settings.bids_dir.is_absolute()
    assert settings.nprocs >= 1


def test_modality_names_the_generic_recipe_or_changes_the_one_given(tmp_path):
    assert parsed("--modality", "T1w").recipe_source == "t1w"
    assert parsed("--recipe", "demo-t1w", "--modality", "T1w").recipe.input.modality == "T1w"
    with pytest.raises(InputError, match="T2star"):
        parsed("--modality", "T2star")


def test_symlinks_of_the_dataset_are_not_resolved(dataset, tmp_path):
    (tmp_path / "link").symlink_to(dataset)
    options = cli.parser().parse_args([str(tmp_path / "link"), str(tmp_path / "o"), "participant"])
    options.work_dir = tmp_path / "w"
    assert cli.settings(options, ()).bids_dir == tmp_path / "link"


# --- folders -------------------------------------------------------------------------------------


def test_output_must_not_be_the_dataset(brainwhy, dataset):
    before = listing(dataset)
    outcome = brainwhy(dataset, dataset, "participant")
    assert outcome.code == 64
    assert str(dataset) in outcome.said
    assert "derivatives/brainwhy" in outcome.said
    assert listing(dataset) == before


def test_output_must_not_be_the_dataset_under_another_name(brainwhy, dataset, tmp_path):
    (tmp_path / "link").symlink_to(dataset)
    assert brainwhy(dataset, tmp_path / "link", "participant").code == 64


def test_group_level_may_name_the_output_twice(brainwhy, dataset):
    outcome = brainwhy(dataset, dataset, "group", "--recipe", "demo-t1w")
    assert outcome.code == 64
    assert "make them first" in outcome.said  # refused for what is missing, not for the folder


@pytest.mark.parametrize("level", ["participant", "group"])
@pytest.mark.parametrize("work", ["raw", "out", "."])
def test_a_work_dir_that_could_empty_data_is_refused(brainwhy, dataset, tmp_path, level, work):
    (tmp_path / "out").mkdir()
    before = listing(tmp_path)
    outcome = brainwhy(dataset, tmp_path / "out", level, "-w", tmp_path / work, "--clean-workdir")
    assert outcome.code == 64
    assert "--work-dir" in outcome.said
    assert listing(tmp_path) == before


def test_work_dir_inside_the_dataset_is_refused(brainwhy, dataset, tmp_path):
    outcome = brainwhy(dataset, tmp_path / "out", "participant", "-w", dataset / "work")
    assert outcome.code == 64
    assert "lies inside bids_dir" in outcome.said
    assert not (dataset / "work").exists()
    assert not (tmp_path / "out").exists()


def test_output_below_the_datasets_derivatives_is_welcome(brainwhy, dataset):
    outcome = brainwhy(dataset, dataset / "derivatives/brainwhy", "participant", "--dry-run")
    assert outcome.code == 0
    assert "sub-02_T1w.nii.gz: to be preprocessed" in outcome.said


@pytest.mark.parametrize("level", ["participant", "group"])
def test_output_that_is_a_file_is_refused(brainwhy, dataset, tmp_path, level):
    (tmp_path / "file").write_text("precious")
    for out in ("file", "file/below"):
        outcome = brainwhy(dataset, tmp_path / out, level)
        assert outcome.code == 64
        assert str(tmp_path / "file") in outcome.said
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.usefixtures("permissions_count")
def test_output_without_permission_is_refused(brainwhy, dataset, tmp_path):
    outcome = brainwhy(dataset, tmp_path / "closed/out", "participant")
    assert outcome.code == 64
    assert "written" in outcome.said


# --- refused before anything is written ----------------------------------------------------------


def refused(brainwhy, *arguments):
    """Call, and check that it is refused in one sentence without a traceback."""
    outcome = brainwhy(*arguments)
    assert outcome.code == 64, outcome.said
    assert outcome.said.startswith("brainwhy: ")
    assert "Traceback" not in outcome.said
    return outcome.said


def test_what_is_no_dataset(brainwhy, tmp_path):
    out = tmp_path / "out"
    empty, without, broken = (tmp_path / name for name in ("empty", "without", "broken"))
    empty.mkdir()
    describe(without)
    describe(broken)
    (broken / "dataset_description.json").write_text("{")
    assert "no such folder" in refused(brainwhy, tmp_path / "nowhere", out, "participant")
    assert "dataset_description.json: missing" in refused(brainwhy, empty, out, "participant")
    assert "no sub-* folder" in refused(brainwhy, without, out, "participant")
    assert "not valid JSON" in refused(brainwhy, broken, out, "participant")
    assert not out.exists()


def test_unknown_participant_names_those_that_are_there(brainwhy, dataset, tmp_path):
    said = refused(
        brainwhy, dataset, tmp_path / "out", "participant", "--participant-label", "01", "03"
    )
    assert "no sub-03" in said
    assert "01, 02" in said
    assert not (tmp_path / "out").exists()


def test_no_image_of_the_modality(brainwhy, tmp_path):
    raw = describe(tmp_path / "raw")
    path = save_scan(raw, "01", b"")
    path.rename(path.with_name("sub-01_bold.nii.gz"))
    said = refused(brainwhy, raw, tmp_path / "out", "participant")
    assert "no T1w image of sub-01" in said
    assert "--bids-filter-file" in said
    assert not (tmp_path / "out").exists()


def test_no_image_in_the_session(brainwhy, dataset, tmp_path):
    said = refused(brainwhy, dataset, tmp_path / "out", "participant", "--session-label", "ses-9")
    assert "in session 9" in said


def test_a_filter_that_pybids_does_not_know(brainwhy, dataset, tmp_path):
    file = tmp_path / "f.json"
    file.write_text('{"t1w": {"acquision": "mprage"}}')
    arguments = (dataset, tmp_path / "out", "participant", "--bids-filter-file", file)
    said = refused(brainwhy, *arguments)
    assert "acquision" in said
    assert "acquisition" in said
    file.write_text("[]")
    assert "must hold a JSON object" in refused(brainwhy, *arguments)
    file.write_text("{")
    assert "cannot be read as JSON" in refused(brainwhy, *arguments)
    file.unlink()
    assert str(file) in refused(brainwhy, *arguments)


def test_group_with_nothing_preprocessed_prints_the_command(brainwhy, dataset, tmp_path):
    said = refused(brainwhy, dataset, tmp_path / "out", "group", "--recipe", "demo-t1w")
    command = said.strip().splitlines()[-1].split()
    assert command[0] == "brainwhy"
    assert command[2:] == [str(tmp_path / "out"), "participant", "--recipe", "demo-t1w"]
    assert not (tmp_path / "out").exists()


def test_group_prints_the_recipe_file_that_was_given(brainwhy, dataset, tmp_path, recipe):
    said = refused(brainwhy, dataset, tmp_path / "out", "group", "--recipe", recipe)
    assert f"--recipe {recipe}" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--recipe", "demo-t1"], ["did you mean 'demo-t1w'?"]),
        (["--recipe", "no/such.toml"], ["neither a shipped recipe nor a file", "demo-t1w"]),
        (["--device", "tpu"], ["--device tpu", "auto or cpu"]),
        (["--device", "cuda:99"], ["--device cuda:99"]),
        (["--dataset-links", "raw"], ["NAME=URI"]),
        (["--model", "nobody"], ["--model nobody", "none"]),
    ],
)
def test_flags_that_cannot_be(brainwhy, dataset, tmp_path, flags, words):
    said = refused(brainwhy, dataset, tmp_path / "out", "participant", *flags)
    for word in words:
        assert word in said
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_key_names_the_file_and_the_nearest_key(brainwhy, dataset, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[training]\nfold = 3\n")
    for flag in ("--recipe", "--config-file"):
        said = refused(brainwhy, dataset, tmp_path / "out", "participant", flag, file)
        assert str(file) in said
        assert "[training] fold" in said
        assert "did you mean 'folds'?" in said


def test_debug_shows_the_traceback_instead(brainwhy, tmp_path):
    from models.errors import InputError

    with pytest.raises(InputError, match="no such folder"):
        brainwhy(tmp_path / "nowhere", tmp_path / "out", "participant", "--debug")


def test_a_dry_run_writes_nothing(dataset, tmp_path):
    # In a process of its own: libraries make their folders when they are imported.
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "bidsapp.cli",
            dataset,
            tmp_path / "out",
            "participant",
            "--dry-run",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("to be preprocessed") == 2
    assert not (tmp_path / "out").exists()


# --- environment ---------------------------------------------------------------------------------


def test_libraries_get_a_home_and_one_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {"HOME": "/no/such/home"})
    arguments = ["raw", "out", "participant", "-w", str(tmp_path), "--omp-nthreads", "3"]
    cli.prepare_environment(cli.parser().parse_args(arguments))
    assert os.environ["HOME"] == str(tmp_path)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] == "1"
    assert os.environ["NIPYPE_CONFIG_DIR"].startswith(str(tmp_path))
    assert os.environ["MPLBACKEND"] == "Agg"


def test_threads_of_all_libraries_are_set_together(tmp_path):
    """In a process of its own: they are read when a library is loaded."""
    code = (
        "import sys\n"
        "from bidsapp import cli\n"
        "cli.prepare_environment(cli.parser().parse_args(sys.argv[1:]))\n"
        "import numba, numpy, sklearn, torch\n"
        "from threadpoolctl import threadpool_info\n"
        "pools = [pool['num_threads'] for pool in threadpool_info()]\n"
        "print(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS, min(pools), max(pools))\n"
    )

    def threads(number):
        arguments = ["raw", "out", "participant", "-w", tmp_path, "--omp-nthreads", number]
        run = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env={name: value for name, value in os.environ.items() if "THREADS" not in name},
        )
        return [int(word) for word in run.stdout.split()]

    assert threads(1) == [1, 1, 1, 1]
    most = min(2, os.cpu_count())  # OpenBLAS takes no more than there are
    assert threads(2) == [2, 2, most, 2]
