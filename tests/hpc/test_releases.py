"""What says the same thing in several files says the same thing."""

import re
import tomllib
from pathlib import Path

import pytest

from bidsapp import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("Dockerfile", 'org.opencontainers.image.version="{}"'),
        ("Singularity.def", "org.opencontainers.image.version {}\n"),
        ("CITATION.cff", "\nversion: {}\n"),
        ("CHANGES.md", "\n## {} "),
    ],
)
def test_every_file_names_this_version(file, line):
    assert line.format(__version__) in (ROOT / file).read_text()


def test_the_citation_carries_the_date_of_the_changes():
    day = re.search(r'date-released: "(.*)"', (ROOT / "CITATION.cff").read_text()).group(1)
    assert f"## {__version__} ({day})" in (ROOT / "CHANGES.md").read_text()


@pytest.mark.parametrize("extra", [None, "test"])
def test_every_dependency_is_pinned_within_its_range(extra):
    from packaging.requirements import Requirement

    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    for requirement in map(Requirement, wanted):
        assert pins[requirement.name] in requirement.specifier, requirement


def test_both_images_install_the_same_packages():
    steps = [
        r"apt-get install .* (ca-certificates .*?)(?: \\)?\n",
        r"(python3 -c 'import tomllib.*) >",
    ]
    docker, apptainer = ((ROOT / name).read_text() for name in ("Dockerfile", "Singularity.def"))
    for step in steps:
        assert re.search(step, docker).group(1) == re.search(step, apptainer).group(1)


def test_both_images_copy_the_same_files():
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    section = (ROOT / "Singularity.def").read_text().split("%files\n")[1].split("\n\n")[0]
    assert {line.split()[0] for line in section.splitlines()} == kept
