"""Tracers: what counts as 123I-FP-CIT, what as another, and where it is read."""

import json
from pathlib import Path

import pytest

from models.errors import InputError
from pipelines.inputs import find_scans, metadata_of, modalities_there
from pipelines.interfaces.nuclear import tracer_notes
from pipelines.tracers import Tracer

PLAIN = Path("sub-01_spect.nii.gz")


@pytest.mark.parametrize(
    "metadata",
    [
        {"TracerName": "ioflupane", "TracerRadionuclide": "I123"},
        {"TracerName": "[123I]FP-CIT", "TracerRadionuclide": "123I"},
        {"TracerName": "DaTSCAN"},
        {"TracerName": "123I-Ioflupane", "TracerRadionuclide": "iodine-123"},
        {"TracerName": "DaTscan (ioflupane I-123 injection)", "TracerRadionuclide": "^123^Iodine"},
        {"TracerName": "Ioflupane I-123 (DaTSCAN)"},
    ],
)
def test_ways_of_writing_fp_cit(metadata):
    tracer = Tracer.of(PLAIN, metadata)
    assert tracer.is_stated
    assert tracer_notes(PLAIN, tracer) == []


@pytest.mark.parametrize("label", ["123IFPCIT", "DaT", "FPCIT", "ioflupane"])
def test_the_label_of_the_file_counts_as_a_name(label):
    assert Tracer.of(Path(f"sub-01_trc-{label}_spect.nii.gz"), {}).is_stated


@pytest.mark.parametrize(
    "metadata",
    [
        {"TracerName": "HMPAO", "TracerRadionuclide": "Tc99m"},
        {"TracerName": "FDG"},
        {"TracerName": "beta-CIT", "TracerRadionuclide": "I123"},
        {"TracerName": "FP-CIT", "TracerRadionuclide": "F18"},
        {"TracerName": "18F-FP-CIT"},
        {"TracerName": "123I", "TracerRadionuclide": "I123"},
        {"TracerName": "n/a", "TracerRadionuclide": "Tc99m"},
    ],
)
def test_other_tracers_are_refused_with_the_file(metadata):
    tracer = Tracer.of(PLAIN, metadata)
    assert tracer.is_other
    with pytest.raises(InputError, match=r"sub-01_spect\.nii\.gz: its tracer is .*not 123I-FP-CIT"):
        tracer_notes(PLAIN, tracer)


@pytest.mark.parametrize("metadata", [{}, {"TracerRadionuclide": "I123"}, {"TracerName": "n/a"}])
def test_no_name_is_said_and_goes_on(metadata):
    tracer = Tracer.of(PLAIN, metadata)
    assert not tracer.is_other
    (note,) = tracer_notes(PLAIN, tracer)
    assert "taken for 123I-FP-CIT" in note


# --- in a dataset --------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    """One with SPECT, one with the same as PET, one with FDG, one with two sessions."""
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.11.1"}')
    files = {
        "sub-01/spect/sub-01_trc-123IFPCIT_rec-a_spect": {},
        "sub-02/pet/sub-02_pet": {"TracerName": "ioflupane", "TracerRadionuclide": "I123"},
        "sub-03/pet/sub-03_trc-FDG_pet": {"TracerName": "FDG", "TracerRadionuclide": "F18"},
        "sub-04/ses-1/spect/sub-04_ses-1_spect": {},
        "sub-04/ses-2/spect/sub-04_ses-2_spect": {},
    }
    for name, sidecar in files.items():
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))
    return tmp_path


def test_spect_is_found_in_both_folders_and_fdg_is_not(dataset):
    scans, warnings = find_scans(dataset, ["01", "02", "03", "04"], "spect")
    assert [(scan.participant, scan.session) for scan in scans] == [
        ("01", ""),
        ("02", ""),
        ("04", "1"),
        ("04", "2"),
    ]
    assert warnings == []
    assert modalities_there(dataset, ("T1w", "spect")) == ["spect"]


def test_a_pet_dataset_of_another_tracer_is_no_spect(dataset, tmp_path):
    import shutil

    for who in ("01", "02", "04"):
        shutil.rmtree(dataset / f"sub-{who}")
    assert modalities_there(dataset, ("T1w", "spect")) == []
    assert find_scans(dataset, ["03"], "spect")[0] == []


def test_sidecars_are_inherited_and_the_nearest_wins(dataset):
    (dataset / "spect.json").write_text('{"TracerName": "FDG", "Units": "counts"}')
    (dataset / "trc-123IFPCIT_spect.json").write_text('{"TracerName": "ioflupane"}')
    own = dataset / "sub-01/spect/sub-01_trc-123IFPCIT_rec-a_spect.json"
    own.write_text('{"Manufacturer": "M"}')
    (dataset / "sub-01/sub-01_ses-9_spect.json").write_text('{"TracerName": "wrong"}')
    found = metadata_of(own.with_name(own.name.replace(".json", ".nii.gz")))
    assert found == {"Manufacturer": "M", "TracerName": "ioflupane", "Units": "counts"}


def test_a_broken_sidecar_is_named(dataset):
    path = dataset / "sub-01/spect/sub-01_trc-123IFPCIT_rec-a_spect.json"
    path.write_text("{")
    with pytest.raises(InputError, match=r"rec-a_spect\.json: cannot be read as JSON"):
        metadata_of(path.with_name(path.name.replace(".json", ".nii.gz")))
