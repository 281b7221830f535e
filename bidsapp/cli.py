"""The command line: ``brainwhy bids_dir output_dir participant|group``.

Nothing heavy is imported before the arguments are understood.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from bidsapp import __version__

DONE, FAILED, UNUSABLE = 0, 1, 64
LOW_MEMORY_MB = 32.0  # of statistics at a time, with --low-mem
LEVELS = {
    "participant": "participant",
    "group": "group",
    "subject": "participant",
    "dataset": "group",
}


class Parser(argparse.ArgumentParser):
    """argparse that leaves with 64, the exit code of an unusable command line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Understand ``--work_dir`` as ``--work-dir``: BIDS Apps know both spellings."""
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([_dashed(argument) for argument in given], namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message."""
        self.print_usage(sys.stderr)
        self.exit(UNUSABLE, f"{self.prog}: {message}\n")


def parser() -> Parser:
    """All options, in groups of one screen each."""
    root = Parser(
        prog="brainwhy",
        description="Why does a network call this brain a patient's? Preprocess, classify, explain "
        "and test the brain images of a BIDS dataset.",
        epilog="Research use only; not a medical device. Exit codes: 0 done, 1 something failed "
        "and the rest is done, 64 nothing could be run.",
        allow_abbrev=False,
    )
    root.add_argument("bids_dir", type=Path, help="raw BIDS dataset (only read)")
    root.add_argument("output_dir", type=Path, help="BIDS derivatives; group level needs only this")
    root.add_argument(
        "analysis_level",
        nargs="+",
        choices=sorted(LEVELS),
        metavar="{participant,group}",
        help="one or both: participant preprocesses (and explains, with a stored model); group "
        "trains, explains out of fold and tests",
    )
    root.add_argument("--version", action="version", version=f"brainwhy {__version__}")
    for add in (_what, _data, _resources, _running):
        add(root)
    return root


def _what(root: Parser) -> None:
    group = root.add_argument_group("what to do")
    group.add_argument(
        "--recipe", metavar="NAME|FILE", help="what to reproduce (default: that of the modality)"
    )
    group.add_argument(
        "--modality",
        metavar="SUFFIX",
        help="T1w, FLAIR, dwi, spect: which images to use (default: the recipe's, or the first "
        "that is there)",
    )
    group.add_argument(
        "--list-recipes", action=ListRecipes, nargs=0, help="name the shipped recipes"
    )
    group.add_argument("--config-file", metavar="FILE", help="TOML laid over the recipe")
    group.add_argument("--target", metavar="COLUMN", help="column of participants.tsv to predict")
    group.add_argument("--positive", metavar="V", help="its value for patients")
    group.add_argument("--negative", metavar="V", help="its value for controls")
    group.add_argument("--covariates", metavar="COLUMN", nargs="*", help="for the statistics")
    group.add_argument(
        "--template", type=Path, metavar="FILE", help="T1w brain to register to, on the way to MNI"
    )
    group.add_argument(
        "--spect-template", type=Path, metavar="FILE", help="FP-CIT template in MNI space"
    )
    group.add_argument("--atlas", metavar="NAME|FILE", help="regions (default: the recipe's)")
    group.add_argument("--model", metavar="NAME|DIR", help="stored model to explain with")
    group.add_argument(
        "--compare",
        metavar="KEY=a,b,c",
        help="run the recipe with each value of a key, or of config=FILE,FILE, on the same splits",
    )
    group.add_argument("--force", action="store_true", help="redo what is already done")


def _data(root: Parser) -> None:
    group = root.add_argument_group("which data")
    group.add_argument(
        "--participant-label",
        "--subject-label",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="these people only, with or without sub-",
    )
    group.add_argument(
        "--session-label",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="these sessions only, with or without ses-",
    )
    group.add_argument(
        "--bids-filter-file",
        type=Path,
        metavar="FILE",
        help='JSON of pybids entities per modality, such as {"t1w": {"acquisition": "mprage"}}',
    )
    group.add_argument(
        "--derivatives",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="folders with lesion masks, before bids_dir/derivatives/*",
    )
    group.add_argument(
        "--dataset-links",
        nargs="+",
        default=[],
        metavar="NAME=URI",
        help="where the source datasets live, such as raw=https://... (default: a relative path)",
    )


def _resources(root: Parser) -> None:
    group = root.add_argument_group("resources")
    group.add_argument("--nprocs", "--n-cpus", type=_positive, metavar="N",
                       help="processes side by side (default: CPUs / --omp-nthreads)")  # fmt: skip
    group.add_argument("--omp-nthreads", type=_positive, default=1, metavar="N",
                       help="threads of each process, but one for ANTs (default: 1)")  # fmt: skip
    group.add_argument("--mem", type=_gigabytes, metavar="GB",
                       help="memory for all (default: 90 %% of what is granted)")  # fmt: skip
    group.add_argument("--low-mem", action="store_true",
                       help="step by step, in small blocks: slower, same numbers")  # fmt: skip
    group.add_argument("--device", default="auto", metavar="DEV",
                       help="auto, cpu, cuda, cuda:N or mps (default: auto)")  # fmt: skip
    group.add_argument("--n-gpus", type=_positive, metavar="N",
                       help="GPUs to use side by side (default: all with cuda)")  # fmt: skip
    group.add_argument("--gpus-per-fold", type=_positive, default=1, metavar="N",
                       help="GPUs that train a fold together (default: 1)")  # fmt: skip
    group.add_argument("--use-plugin", type=Path, metavar="FILE",
                       help='JSON: {"plugin": "SLURM", "plugin_args": {...}}')  # fmt: skip


def _running(root: Parser) -> None:
    group = root.add_argument_group("running")
    group.add_argument("-w", "--work-dir", type=Path, metavar="DIR",
                       help="intermediate files (default: output_dir/.work)")  # fmt: skip
    group.add_argument("--clean-workdir", action="store_true",
                       help="first remove from it what is of these people or model")  # fmt: skip
    group.add_argument("--stop-on-first-crash", action="store_true")
    group.add_argument("--dry-run", action="store_true", help="say what would be done")
    group.add_argument("--reports-only", action="store_true", help="only write the pages again")
    group.add_argument(
        "--boilerplate-only", action="store_true", help="only write the methods text"
    )
    group.add_argument("--write-graph", action="store_true", help="draw the workflow into logs/")
    group.add_argument("--random-seed", type=_natural, default=0, metavar="N", help="default: 0")
    group.add_argument("--sloppy", action="store_true",
                       help="register at 3 mm, few permutations: for testing only")  # fmt: skip
    _needless(group)
    group.add_argument("-v", "--verbose", action="store_true", help="every step of every workflow")
    group.add_argument("--debug", action="store_true", help="tracebacks instead of sentences")


def _needless(group: Any) -> None:
    """Flags that scripts for other BIDS Apps bring along: none of them changes anything here."""
    for flag, why in (
        ("--notrack", "there is no telemetry"),
        ("--resource-monitor", "steps are always measured, into usage.tsv of the work dir"),
        ("--skip-bids-validation", "what is needed of the dataset is checked, and no more"),
    ):
        group.add_argument(flag, action="store_true", help=f"accepted; {why}")
    group.add_argument("--bids-database-dir", type=Path, metavar="DIR",
                       help="accepted; only the people asked for are indexed")  # fmt: skip


class ListRecipes(argparse.Action):
    """Print the shipped recipes and leave."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Name and describe each recipe."""
        import tomllib
        from importlib import resources

        folder = resources.files("bidsapp") / "recipes"
        for file in sorted(folder.iterdir(), key=lambda f: f.name.removesuffix(".toml")):
            if file.name.endswith(".toml"):
                recipe = tomllib.loads(file.read_text())
                sys.stdout.write(f"{recipe['name']:<21} {recipe['description']}\n")
        parser.exit()


def _dashed(argument: str) -> str:
    """The dash spelling of a flag; values are left alone."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _gigabytes(text: str) -> float:
    """More than the scheduler calls nothing: with that, it would wait for ever."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GB from 0.1 on")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and turn what went wrong into a sentence and an exit code."""
    given = sys.argv[1:] if argv is None else argv
    arguments = list(given)
    options = parser().parse_args(arguments)
    options.work_dir = options.work_dir or options.output_dir / ".work"
    signal.signal(signal.SIGTERM, _stopped)
    from models.errors import InputError

    try:
        _check_folders(options)
        prepare_environment(options)
        chosen = settings(options, ("brainwhy", *arguments))
        if options.compare:
            from bidsapp.compare import run_compared

            return run_compared(chosen, options.compare)
        from bidsapp.run import run

        return run(chosen)
    except (InputError, PermissionError) as error:
        if options.debug:
            raise
        what = (
            f"{error.filename}: permission denied; see to its permissions or give another folder"
            if isinstance(error, PermissionError)
            else error
        )
        sys.stderr.write(f"brainwhy: {what}\n")
        return UNUSABLE


def _stopped(number: int, _: Any) -> NoReturn:
    """Leave at once: workers die with this process, and nothing is written in halves.

    Without it, a run that is a container's first process would not hear ``docker stop``.
    """
    sys.stderr.write(
        f"\nbrainwhy: stopped by {signal.Signals(number).name}; what is done stays, the same "
        "command goes on from there\n"
    )
    sys.stderr.flush()
    os._exit(128 + number)


def prepare_environment(options: argparse.Namespace) -> None:
    """Set what libraries read at import: threads, a usable HOME, no version pings."""
    for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(options.omp_nthreads)
    work = options.work_dir.absolute()
    os.environ |= {
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "NO_ET": "1",
        "MPLBACKEND": "Agg",
    }
    # Libraries would leave settings and caches in the home folder, or fail where there is none.
    os.environ.setdefault("NIPYPE_CONFIG_DIR", str(work / ".nipype"))
    os.environ.setdefault("MPLCONFIGDIR", str(work / ".matplotlib"))
    os.environ.setdefault("LOGNAME", "brainwhy")
    home = os.environ.get("HOME", "")
    if not home or not os.access(home, os.W_OK):
        os.environ["HOME"] = str(work)


def settings(options: argparse.Namespace, command: tuple[str, ...]) -> Any:
    """The run's settings; raises InputError for what cannot be."""
    from bidsapp import machine
    from bidsapp.settings import Settings

    levels = tuple(dict.fromkeys(LEVELS[level] for level in options.analysis_level))
    recipe_source = options.recipe or _generic_recipe(options)
    device = machine.pick_device(options.device)
    plugin = _json(options.use_plugin, "--use-plugin") if options.use_plugin else {}
    filters = (
        _json(options.bids_filter_file, "--bids-filter-file") if options.bids_filter_file else {}
    )
    return Settings(
        bids_dir=options.bids_dir.absolute(),
        output_dir=options.output_dir.absolute(),
        levels=tuple(sorted(levels, reverse=True)),  # participant before group
        recipe=_recipe(options, recipe_source),
        work_dir=options.work_dir.absolute(),
        participants=tuple(name.removeprefix("sub-") for name in options.participant_label),
        sessions=tuple(name.removeprefix("ses-") for name in options.session_label),
        filters=_filters(filters, options.bids_filter_file),
        dataset_links=_pairs(options.dataset_links, "--dataset-links", "URI"),
        derivatives=_pairs(options.derivatives, "--derivatives", "PATH"),
        model=options.model,
        device=device,
        gpus=machine.gpu_count(device, options.n_gpus, options.gpus_per_fold),
        gpus_per_fold=options.gpus_per_fold,
        nprocs=1
        if options.low_mem
        else options.nprocs or max(1, machine.cpu_count() // options.omp_nthreads),
        omp_nthreads=options.omp_nthreads,
        memory_gb=options.mem or 0.9 * machine.memory_gb(),
        plugin=plugin.get("plugin", "MultiProc"),
        plugin_args=plugin.get("plugin_args", {}),
        seed=options.random_seed,
        force=options.force,
        clean_workdir=options.clean_workdir,
        stop_on_first_crash=options.stop_on_first_crash,
        dry_run=options.dry_run,
        reports_only=options.reports_only,
        boilerplate_only=options.boilerplate_only,
        write_graph=options.write_graph,
        verbose=options.verbose or options.debug,
        command=command,
        recipe_source=recipe_source,
    )


def _generic_recipe(options: argparse.Namespace) -> str:
    """The recipe of the modality asked for, or of the first one that is there."""
    from bidsapp.settings import recipe_names
    from pipelines.inputs import modalities_there
    from pipelines.preprocess import MODALITIES, modality_of

    if options.modality:
        return modality_of(options.modality).suffix.lower()
    levels = [LEVELS[level] for level in options.analysis_level]
    folder = options.bids_dir if "participant" in levels else options.output_dir
    shipped = [suffix for suffix in MODALITIES if suffix.lower() in recipe_names()]
    return (*modalities_there(folder, shipped), *shipped)[0].lower()


def _recipe(options: argparse.Namespace, source: str) -> Any:
    """The recipe with the second file and the flags laid over it."""
    from bidsapp.settings import load_recipe, read_toml

    recipe = load_recipe(source)
    if options.config_file:
        recipe = recipe.overridden(read_toml(options.config_file), options.config_file)
    cohort = {
        name: getattr(options, name)
        for name in ("target", "positive", "negative", "covariates")
        if getattr(options, name) is not None
    }
    changes: dict[str, Any] = {"cohort": cohort}
    if options.modality:
        changes["input"] = {"modality": options.modality}
    if options.atlas:
        changes["regions"] = {"atlas": options.atlas}
    if options.template:
        changes["preprocessing"] = {"template": str(options.template.absolute())}
    if options.spect_template:
        spect = {"template": str(options.spect_template.absolute())}
        changes.setdefault("preprocessing", {})["spect"] = spect
    if options.sloppy:
        changes.setdefault("preprocessing", {})["resolution_mm"] = 3.0
        changes["statistics"] = {"permutations": 100}
    if options.low_mem:
        changes.setdefault("statistics", {})["memory_mb"] = LOW_MEMORY_MB
    return recipe.overridden(changes)


def _check_folders(options: argparse.Namespace) -> None:
    """Refuse to write into the raw dataset, and to empty or fill what is somebody's."""
    from models.errors import InputError

    # Links are followed here, and only here: two names of one folder are one folder.
    raw, out, work = (
        os.path.realpath(folder)
        for folder in (options.bids_dir, options.output_dir, options.work_dir)
    )
    for name, folder in (("bids_dir", raw), ("output_dir", out)):
        if _holds(work, folder):
            raise InputError(f"--work-dir {work} is or holds {name}: give a folder of its own")
    if "participant" in [LEVELS[level] for level in options.analysis_level]:
        if raw == out:
            raise InputError(
                f"output_dir is bids_dir ({raw}), which is only read: give another folder, such "
                f"as {raw}/derivatives/brainwhy"
            )
        if _holds(raw, work) and not _holds(out, work):
            raise InputError(f"--work-dir {work} lies inside bids_dir: give a folder outside of it")
    for name, folder in (("output_dir", out), ("--work-dir", work)):
        there = folder
        while not os.path.exists(there):
            there = os.path.dirname(there)
        if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f"{name} {folder}: {there} is not a folder that can be written to")


def _holds(outer: str, inner: str) -> bool:
    return os.path.commonpath([outer, inner]) == outer


def _json(path: Path, flag: str) -> dict[str, Any]:
    from models.errors import InputError

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{flag} {path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{flag} {path}: must hold a JSON object")
    return content


def _filters(filters: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """A filter file by modality in small letters; null asks for none, "*" for any value."""
    from models.errors import InputError
    from pipelines.preprocess import MODALITIES

    known = [suffix.lower() for suffix in MODALITIES]
    chosen = {key.lower(): value for key, value in filters.items()}
    objects = [isinstance(value, dict) for key, value in chosen.items() if key in known]
    if path is not None and not (objects and all(objects)):
        raise InputError(
            f'--bids-filter-file {path}: holds no object under "{known[0]}" or another modality; '
            "add it"
        )
    return chosen


def _pairs(texts: Sequence[str], flag: str, what: str) -> dict[str, str]:
    from models.errors import InputError

    for text in texts:
        if "=" not in text:
            raise InputError(f"{flag} {text}: write NAME={what}")
    return dict(text.split("=", 1) for text in texts)


if __name__ == "__main__":
    sys.exit(main())
