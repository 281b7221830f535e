"""Group level: pack, train, predict, explain out of fold, test; on derivatives alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe

from models.training.splits import Split
from pipelines.stages import Stages
from pipelines.study import Study


def init_group_wf(
    *,
    study: Study,
    cohort: Path,
    splits: Sequence[Split],
    card: Mapping[str, Any],
    output_dir: Path,
    work_dir: Path,
    device: str = "cpu",
    processes: int = 1,
    force: bool = False,
) -> pe.Workflow:
    """Classify, explain out of fold, aggregate and test.

    Folds, methods and maps are MapNodes, so that any nipype plugin runs them side by side.

    Parameters
    ----------
    cohort : Path
        Table of :func:`pipelines.interfaces.networks.read_cohort`.
    splits : sequence of Split
    card : mapping
        See :meth:`Study.card`.
    processes : int
        That train a fold together, each on a GPU of its own.
    """
    workflow = pe.Workflow(f"group_{study.model}", base_dir=str(work_dir))
    folds, versions = [asdict(split) for split in splits], card["Versions"]
    stages = Stages(study, cohort, folds, output_dir, workflow, versions, device, processes)
    stages.classify(card, force=force)
    if study.baselines.names:
        stages.fit_baselines()
    if study.attributions:
        stages.explain()
    if study.attributions and study.registered:
        stages.analyse()
        stages.look_beside()
    if study.attributions and study.ways:
        stages.carry_to_template()
    if study.harmonisation.wanted:
        stages.harmonise()
    if study.deformations:
        stages.measure_volumes(study.deformations)
    if study.statistics.maps and study.comparable:
        stages.test()
    return workflow
