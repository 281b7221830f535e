"""Anomaly detection: learn controls, map and score everybody else; by people, never by image."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from models.training.splits import Split
from pipelines.derivatives import fingerprint
from pipelines.detectors import KIND, StoredDetectors
from pipelines.explain import with_sink
from pipelines.inputs import Scan
from pipelines.interfaces.anomaly import (
    CompareDetectors,
    DetectPerson,
    FindBrain,
    LearnControls,
    MapPeople,
)
from pipelines.interfaces.networks import PackVolumes
from pipelines.interfaces.sink import SaveProducts
from pipelines.stored_models import made_by


@dataclass(frozen=True)
class AnomalyStudy:
    """What an anomaly run is about; everything that its model card must say.

    Parameters
    ----------
    model : str
        Label of the model.
    classes : tuple of str
        Controls and patients as in participants.tsv.
    grid : dict
        name, shape, voxel_mm, origin_mm.
    modality, intensity : str
    parameters : tuple of str
        Of the channels; empty where there is one.
    channels : int
    autoencoders : tuple of dict
        Each with a unique alphanumeric ``name``, a ``method`` and options.
    atlas, nuclei : str
        Names or files; ``nuclei`` may be "".
    quantile : float
        Of the training controls' errors, or z.
    measure : {"error", "z"}
    least_voxels : int
        Of a region of interest.
    one_class_stride : int
        Voxels between the places of the one-class machines; 0 for none.
    seed : int
    matched : tuple of str
        Columns of participants.tsv in which the parts of the controls are alike.
    """

    model: str
    classes: tuple[str, str]
    grid: Mapping[str, Any]
    modality: str
    intensity: str
    channels: int
    autoencoders: tuple[Mapping[str, Any], ...]
    atlas: str
    nuclei: str = ""
    parameters: tuple[str, ...] = ()
    quantile: float = 0.98
    measure: str = "error"
    least_voxels: int = 10
    one_class_stride: int = 0
    seed: int = 0
    matched: tuple[str, ...] = field(default_factory=tuple)

    def card(self, recipe: Mapping[str, Any], versions: Mapping[str, str], splits: int) -> dict:
        """The model card without its results."""
        return {
            "Name": self.model,
            "Kind": KIND,
            "Classes": list(self.classes),
            "Grid": dict(self.grid),
            "Modality": self.modality,
            "Channels": self.channels,
            "Intensity": self.intensity,
            "Autoencoders": [dict(one) for one in self.autoencoders],
            "Quantile": self.quantile,
            "Measure": self.measure,
            "Atlas": self.atlas,
            "Nuclei": self.nuclei,
            "LeastVoxels": self.least_voxels,
            "Seed": self.seed,
            "Folds": splits,
            "MatchedOn": list(self.matched),
            "Versions": dict(versions),
            "Recipe": dict(recipe),
            "IntendedUse": "research; not a medical device",
        }


def init_anomaly_wf(
    *,
    study: AnomalyStudy,
    cohort: Path,
    splits: Sequence[Split],
    card: Mapping[str, Any],
    output_dir: Path,
    work_dir: Path,
    device: str = "cpu",
    force: bool = False,
) -> pe.Workflow:
    """Learn the controls of every split by every auto-encoder, map people, compare.

    Parameters
    ----------
    cohort : Path
        Table of :func:`pipelines.interfaces.networks.read_cohort`.
    splits : sequence of Split
        Roles "train" (controls) and "test" (left-out controls, all patients).
    card : mapping
        See :meth:`AnomalyStudy.card`.
    """
    shared = {"cohort": cohort, "model": study.model}
    pack = pe.Node(
        PackVolumes(
            cohort=cohort,
            grid=dict(study.grid),
            modality=study.modality,
            intensity=study.intensity,
            model=study.model,
        ),
        name="pack",
    )
    brain = pe.Node(
        FindBrain(
            atlas=study.atlas, nuclei=study.nuclei, least_voxels=study.least_voxels, **shared
        ),
        name="brain",
    )
    pairs = [(asdict(split), dict(one)) for split in splits for one in study.autoencoders]
    learn = pe.MapNode(
        LearnControls(
            quantile=study.quantile,
            measure=study.measure,
            least_voxels=study.least_voxels,
            one_class_stride=study.one_class_stride,
            seed=study.seed,
            stored=str(output_dir),
            force=force,
            device=device,
            use_gpu=device != "cpu",
            model=study.model,
        ),
        iterfield=["split", "autoencoder"],
        name="learn",
        mem_gb=3,
    )
    learn.inputs.split, learn.inputs.autoencoder = map(list, zip(*pairs, strict=True))
    people = pe.MapNode(
        MapPeople(
            classes=list(study.classes),
            modality=study.modality,
            parameters=list(study.parameters),
            atlas=study.atlas,
            quantile=study.quantile,
            measure=study.measure,
            **shared,
        ),
        iterfield=["autoencoder"],
        name="people",
        mem_gb=2,
    )
    people.inputs.autoencoder = [dict(one) for one in study.autoencoders]
    compare = pe.Node(
        CompareDetectors(
            classes=list(study.classes),
            quantile=study.quantile,
            seed=study.seed,
            card=dict(card),
            **shared,
        ),
        name="compare",
    )
    found = pe.Node(niu.Merge(3), name="found")
    gather = pe.Node(niu.Merge(2), name="gather")  # the model card is written after the weights
    save_model, save_maps = (
        pe.Node(
            SaveProducts(output_dir=str(output_dir), common={"SoftwareVersions": card["Versions"]}),
            name=name,
            overwrite=True,
        )
        for name in ("save_model", "save_maps")
    )
    cached = [("cache", "cache"), ("content_hash", "content_hash")]
    where = [("brain", "brain"), ("regions", "regions")]
    judged = [("folder", "folders"), ("scores", "scores")]
    workflow = pe.Workflow(f"anomaly_{study.model}", base_dir=str(work_dir))
    workflow.connect(
        [
            *[(pack, node, cached) for node in (brain, people, compare)],
            (pack, learn, [*cached, ("cohort", "cohort")]),  # equal sessions train once
            (pack, found, [("products", "in3")]),
            *[(brain, node, where) for node in (learn, compare)],
            (brain, people, [("brain", "brain")]),
            (learn, people, judged),
            (learn, compare, [*judged, ("weights", "weights")]),
            (brain, found, [("products", "in1")]),
            (learn, found, [("products", "in2")]),
            (found, gather, [("out", "in1")]),
            (compare, gather, [("products", "in2")]),
            (gather, save_model, [("out", "products")]),
            (people, save_maps, [("products", "products")]),
        ]
    )
    return workflow


def init_detect_wf(
    *,
    scans: Sequence[tuple[Scan, Path]],
    model: StoredDetectors,
    output_dir: Path,
    work_dir: Path,
    versions: Mapping[str, str],
    device: str = "cpu",
) -> pe.Workflow:
    """Anomaly maps of every scan by a stored model: by the splits that did not train on them.

    Parameters
    ----------
    scans : sequence of (Scan, Path)
        The scan, for its labels, and its registered image.
    """
    parent = pe.Workflow(f"detect_{model.name}", base_dir=str(work_dir))
    files = [
        model.file(one["name"], "weights", split)
        for one in model.autoencoders
        for split in model.folds
    ]
    making = fingerprint(model.card, [made_by(path) for path in files])
    for scan, registered in scans:
        splits, _ = model.unseen_folds(scan.participant)
        if not splits:
            continue  # the participant level says so: every split trained on this person
        detect = pe.Node(
            DetectPerson(
                image=registered,
                participant=scan.participant,
                session=scan.session,
                model=str(model.folder),
                making=making,
                splits=splits,
                device=device,
                use_gpu=device != "cpu",
            ),
            name="detect",
            mem_gb=3,
        )
        parent.add_nodes([with_sink(detect, scan, output_dir, versions)])
    return parent
