"""Command line of the demo: ``brainwhy-demo make`` and ``brainwhy-demo score``.

Imports nothing heavy at the top, so that ``--help`` answers at once.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from bidsapp import __version__
from bidsapp.score import (
    TRUTH_FOLDER,
    TRUTH_NAME,
    complain,
    explain_failures,
    finite,
    score,
    score_table,
)
from models.errors import InputError

# Modality -> the module that makes its demo, and how many people there have no such image.
MODALITIES = {
    "T1w": ("bidsapp.demo.t1w", 1),
    "anomaly": ("bidsapp.demo.maps", 0),
    "FLAIR": ("bidsapp.demo.flair", 0),
    "dwi": ("bidsapp.demo.dwi", 0),
    "spect": ("bidsapp.demo.spect", 0),
}
# Modality in the truth -> the module that scores its demo; of the others `bidsapp.score` does.
SCORES = {
    "FLAIR": "bidsapp.score_flair",
    "dwi": "bidsapp.score_dwi",
    "spect": "bidsapp.score_spect",
}
UNUSABLE = 64  # exit code: command line or folder unusable, nothing done


class _Parser(argparse.ArgumentParser):
    """Leaves with 64, not argparse's 2, when the command line is unusable."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(UNUSABLE, f"{self.prog}: {message}\n")


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _modality(text: str) -> str:
    for name in MODALITIES:
        if name.lower() == text.lower():
            return name
    raise argparse.ArgumentTypeError(f"{text} is none of: {', '.join(MODALITIES)}")


def _people(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError("at least 2 people: one patient and one control")
    return value


def _millimetres(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 6:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 6 mm")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``brainwhy-demo``."""
    parser = _Parser(prog="brainwhy-demo", description="Synthetic brain scans with known truth.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{make,score}")
    _add_make(commands.add_parser("make", help="write a raw BIDS dataset and its truth"))
    _add_score(commands.add_parser("score", help="hold the results of a run against the truth"))
    return parser


def _add_make(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="new or empty folder")
    parser.add_argument(
        "--modality",
        type=_modality,
        default="T1w",
        metavar="|".join(MODALITIES),
        help="what is scanned (T1w)",
    )
    parser.add_argument(
        "--participants",
        type=_people,
        metavar="N",
        help="people with an image, patients and controls in turn (T1w, FLAIR: 24, anomaly: 44, "
        "spect: 48, dwi: 20)",
    )
    parser.add_argument(
        "--resolution", type=_millimetres, metavar="MM", help="voxel edge (3; spect: 4, dwi: 5)"
    )
    parser.add_argument(
        "--effect",
        type=_share,
        metavar="SHARE",
        help="share of hippocampus and amygdala (anomaly: of the anisotropy in small spheres of "
        "the deep nuclei; spect: of the binding of the affected putamen) lost by patients; FLAIR: "
        "their lesion load, 1 being 20 ml; 0: none (0.6); dwi: of what the README says (1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="settles everything (0)")
    parser.add_argument(
        "--force", action="store_true", help="replace a demo that is there; results in it stay"
    )


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="demo dataset, for its truth")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder of the group level")
    parser.add_argument("--model", metavar="LABEL", help="which model, where OUT holds several")
    parser.add_argument(
        "--strict", action="store_true", help="exit with 64 when a requirement is not met"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")


def _run_make(args: argparse.Namespace) -> None:
    given = {
        name: getattr(args, name)
        for name in ("participants", "resolution", "effect")
        if getattr(args, name) is not None
    }
    module, without = MODALITIES[args.modality]
    import_module(module).make(args.dir, seed=args.seed, force=args.force, **given)
    people = len(list(args.dir.glob("sub-*"))) - without
    said = f"{people} people with a {args.modality} image"
    sys.stdout.write(f"{args.dir}: {said}{f', {without} without' if without else ''}\n")


def _run_score(args: argparse.Namespace) -> None:
    table, scores = _scored(args)
    if args.json:
        from pipelines.derivatives import write_json

        write_json(args.json, finite(scores))
    sys.stdout.write(table)
    if args.strict and not all(scores["requirements"].values()):
        raise InputError("--strict: not all requirements are met")


def _scored(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The scores of a demo, and how they are laid out: by what was scanned."""
    own = SCORES.get(_scanned(args.dir))
    if own:
        module = import_module(own)
        scores = module.score(args.dir, args.out)
        return module.score_table(scores), scores
    scores = score(args.dir, args.out, args.model)
    explain_failures(scores)
    return score_table(scores), scores


def _scanned(dataset: Path) -> str:
    """The modality of a demo with scores of its own, by its truth."""
    from pipelines.derivatives import read_sidecar

    return str(read_sidecar(dataset / TRUTH_FOLDER / TRUTH_NAME).get("Modality", ""))


COMMANDS = {"make": _run_make, "score": _run_score}


def main(argv: list[str] | None = None) -> int:
    """Run ``brainwhy-demo``; return 0, or 64 when the command line or a folder is unusable."""
    args = build_parser().parse_args(argv)
    try:
        COMMANDS[args.command](args)
    except (InputError, OSError) as error:
        complain(str(error))
        return UNUSABLE
    return 0
