"""Runs a workflow with what the run was granted."""

import shutil

from nipype.pipeline import engine as pe

from bidsapp.diary import tell
from bidsapp.settings import Settings
from pipelines.execution import Failure, Resources, run_workflow


def execute(workflow: pe.Workflow, settings: Settings, title: str) -> list[Failure]:
    """Run a workflow with the run's resources."""
    if settings.write_graph and shutil.which("dot") is None:
        tell("warning: --write-graph needs Graphviz (dot), which is not installed; not drawn")
    elif settings.write_graph:
        target = settings.output_dir / "logs" / f"{workflow.name}.dot"
        target.parent.mkdir(parents=True, exist_ok=True)
        workflow.write_graph(str(target), graph2use="colored", format="svg")
    return run_workflow(
        workflow,
        Resources(
            nprocs=settings.nprocs,
            memory_gb=settings.memory_gb,
            gpus=settings.gpus,
            gpus_each=settings.gpus_per_fold,
            plugin=settings.plugin,
            plugin_args=dict(settings.plugin_args) or None,
            stop_on_first_crash=settings.stop_on_first_crash,
        ),
        settings.output_dir / "logs",
        title=title,
        verbose=settings.verbose,
    )
