"""What holds for every entry of a registry, and what papers, pages and code promise each other."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch

from bidsapp import __version__, cli
from bidsapp.report import wording
from bidsapp.report.citations import REFERENCES
from bidsapp.report.methods import methods_text
from bidsapp.settings import Recipe, load_recipe, recipe_names
from models import anomaly
from models.attribution import METHODS, OF_TENSORS, attribute, context
from models.grids import GRIDS, full_grid
from models.networks import NETWORKS, build
from pipelines.atlases import SHIPPED
from pipelines.preprocess import modality_of

ROOT = Path(__file__).parents[1]
# Voxels that are just enough, and the options that go with them.
SMALLEST = {
    "boehle2019": ((78,) * 3, {}),
    "demo": ((46,) * 3, {}),
    "diktiometry": ((16,) * 3, {"channels": 6, "outputs": 1}),
    "eitel2019": ((71,) * 3, {"outputs": 1}),
    "liu2018": ((62, 38, 74), {"parts": (1, 1, 1)}),
    "nazari2021": ((8,) * 3, {}),
    "pif": ((71,) * 3, {}),
    "resnet3d": ((32,) * 3, {}),
    "rieke2018": ((78,) * 3, {}),
}
# Few steps and large windows: what is promised does not depend on them.
QUICK = {
    "integrated_gradients": {"steps": 2},
    "smoothgrad": {"samples": 2},
    "occlusion": {"patch_mm": 40.0, "stride_mm": 40.0},
}


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


# --- layers --------------------------------------------------------------------------------------


def test_imports_run_one_way():
    program = shutil.which("lint-imports", path=f"{Path(sys.executable).parent}:/usr/bin")
    if program is None:
        pytest.skip("import-linter is not installed")
    run = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("path", sources("models"), ids=lambda path: str(path.relative_to(ROOT)))
def test_science_knows_no_files_but_those_it_is_given(path):
    """``models`` reads no command line, no environment and no dataset."""
    text = path.read_text()
    assert not re.search(r"\bos\.environ|\bsys\.argv|\bimport argparse|nib\.load\(", text)


@pytest.mark.parametrize(
    "path", sources("bidsapp", "pipelines"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_paths_of_datasets_are_not_resolved(path):
    """DataLad keeps images as links; cli.py compares folders, and nothing else follows a link."""
    calls = re.findall(r"\.resolve\(|realpath\(", path.read_text())
    assert len(calls) == (1 if path.parts[-2:] == ("bidsapp", "cli.py") else 0)


@pytest.mark.parametrize(
    "path",
    sources("bidsapp", "pipelines", "models"),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_module_says_what_it_is_and_nothing_prints_or_unpickles(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if path.name == "own.py":  # the one place that runs what a user wrote
        called.remove("exec")
    assert not called & {"print", "eval", "exec", "pickle.load", "pickle.loads", "os.system"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only=True" in ast.unparse(node)


# --- registries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_method_explains_every_network(name, method):
    torch.manual_seed(0)
    shape, options = SMALLEST[name]
    network = build(name, shape, **options)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    if method in OF_TENSORS:  # which any network may be given
        network = build(name, shape, **options | {"channels": 6})
        before = {key: value.clone() for key, value in network.state_dict().items()}
        options = options | {"channels": 6}
    volumes = torch.rand(1, options.get("channels", 1), *shape)
    parameters = dict(QUICK.get(method, {}))
    if "regions" in context(method):
        parameters["regions"] = np.indices(shape)[0] // (shape[0] // 2) + 1
    found = attribute(network, volumes, method=method, target=1, **parameters)
    assert found.heatmap.shape == volumes.shape
    assert found.heatmap.dtype == torch.float32
    assert torch.isfinite(found.heatmap).all()
    # Grad-CAM keeps only what speaks for the class, and the z+ rule only what is positive.
    assert found.heatmap.any() or method in ("grad_cam", "guided_grad_cam", "deep_taylor")
    assert network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in network.parameters())
    if found.ledger:
        passed = sum(share for key, share in found.ledger.items() if key != "start")
        torch.testing.assert_close(passed, found.ledger["start"], rtol=1e-3, atol=1e-4)


def test_every_method_has_its_words():
    for method in METHODS:
        recipe = {"attribution": [{"method": method}]}
        text = str(methods_text(recipe, {}, stages=("attribution",)))
        assert "the method “" not in text, method
        assert wording.method_meaning(method), method
    for name in NETWORKS:
        text = str(methods_text({"network": {"name": name}}, {}, stages=("network",)))
        assert "the network named" not in text, name


@pytest.mark.parametrize("name", recipe_names())
def test_everything_a_recipe_names_is_there(name):
    recipe = load_recipe(name)
    shape = recipe.preprocessing.network_grid.shape
    for one in recipe.autoencoder:
        anomaly.build(**{key: value for key, value in one.items() if key != "name"}, shape=shape)
    if not recipe.autoencoder:
        options = {key: value for key, value in recipe.network.items() if key != "name"}
        build(recipe.network["name"], shape, **options)
    kind = modality_of(recipe.input.modality)
    recipe.preprocessing.view.check(kind, recipe.preprocessing.network_grid)
    assert recipe.regions.atlas in SHIPPED
    assert set(recipe.citations) <= set(REFERENCES)
    for one in recipe.attribution:
        assert one["method"] in METHODS
    assert full_grid(recipe.preprocessing.resolution_mm).voxel_mm <= (
        recipe.preprocessing.network_grid.voxel_mm
    )  # images are stored no coarser than the network wants them


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_has_its_methods_text(name):
    text = str(methods_text(load_recipe(name).as_dict(), {"brainwhy": __version__}))
    assert len(text) > 500
    assert "None" not in text


@pytest.mark.parametrize("grid", GRIDS.values(), ids=lambda grid: grid.name)
def test_grid_names_are_bids_labels(grid):
    assert re.fullmatch("[0-9a-zA-Z]+", grid.name)


# --- words ---------------------------------------------------------------------------------------


def commands():
    """Calls of the app in the documentation, as lists of arguments."""
    found = []
    for page in [*ROOT.glob("README.md"), *sorted(ROOT.glob("docs/*.md"))]:
        for line in page.read_text().replace("\\\n", " ").splitlines():
            called = re.search(r"brainwhy(?:\.sif)? (/data .+)$", line)
            if line.startswith("    ") and called:
                found.append(shlex.split(called[1], comments=True))
    return found


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="no documentation beside the tests")
def test_documented_commands_are_understood():
    assert len(commands()) >= 4
    for arguments in commands():
        options = cli.parser().parse_args(arguments)
        assert options.analysis_level, arguments


def keys_of(kind, place=""):
    """(table, key) of a recipe's dataclasses."""
    hints = get_type_hints(kind)
    found = set()
    for one in fields(kind):
        inner = hints[one.name]
        if is_dataclass(inner):
            found |= keys_of(inner, f"{place}.{one.name}".lstrip("."))
        elif one.name not in ("network", "attribution", "autoencoder"):  # free tables
            found.add((place, one.name))
    return found


def test_every_key_of_a_recipe_is_documented_and_no_other():
    page = ROOT / "docs/recipes.md"
    if not page.exists():
        pytest.skip("the page does not come with the installed package")
    table, documented = "", set()
    rows = [line.split("|") for line in page.read_text().splitlines() if line.startswith("|")]
    for _, first, second, *_ in rows[2:]:
        named = re.search(r"\[+([a-z.]+)\]+", first)
        table = named[1] if named else table
        documented |= {(table, key) for key in re.findall("`([a-z0-9_]+)`", second)}
    free = {pair for pair in documented if pair[0] in ("network", "attribution", "autoencoder")}
    assert documented - free == keys_of(Recipe)


def test_one_version_everywhere():
    for name, pattern in (("CITATION.cff", r"^version: (\S+)"), ("CHANGES.md", r"^## (\S+)")):
        path = ROOT / name
        if path.exists():
            assert re.search(pattern, path.read_text(), re.MULTILINE)[1] == __version__
