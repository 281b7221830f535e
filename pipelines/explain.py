"""Explains people with a stored model: the folds that never saw them, or the whole ensemble."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from nipype.pipeline import engine as pe

from pipelines.atlases import atlas
from pipelines.derivatives import SPACE, fingerprint, label, read_table, relative_path, text
from pipelines.heatmaps import HeatmapNames
from pipelines.inputs import Scan
from pipelines.interfaces.attribution import ExplainPerson
from pipelines.interfaces.sink import SaveProducts
from pipelines.stored_models import StoredModel, made_by


def init_explain_wf(
    *,
    scans: Sequence[tuple[Scan, Path]],
    model: StoredModel,
    output_dir: Path,
    work_dir: Path,
    versions: Mapping[str, str],
    device: str = "cpu",
) -> pe.Workflow:
    """Prediction, heatmaps and region tables of every scan.

    Parameters
    ----------
    scans : sequence of (Scan, Path)
        The raw scan, for its labels, and its registered brain.
    """
    parent = pe.Workflow(f"explain_{model.name}", base_dir=str(work_dir))
    sides = model.view.sides.values(output_dir / "participants.tsv")
    weights = [made_by(model.weights(fold)) for fold in model.folds]
    people = harmonised_by(model, output_dir)
    for scan, registered in scans:
        folds, known = model.unseen_folds(scan.participant)
        if not folds:
            continue  # the participant level says so: every fold was trained with this person
        side = [sides[who]] if (who := f"sub-{scan.participant}") in sides else []
        explain = pe.Node(
            ExplainPerson(
                image=registered,
                participant=scan.participant,
                session=scan.session,
                model=str(model.folder),
                making=fingerprint(model.card, weights, *side),
                folds=folds,
                known=known,
                person=people.get(f"sub-{scan.participant}", {}),
                control_sums=group_tables(model, output_dir),
                device=device,
                use_gpu=device != "cpu",
            ),
            name="explain",
            mem_gb=3,
        )
        parent.add_nodes([with_sink(explain, scan, output_dir, versions)])
    return parent


def with_sink(
    node: pe.Node, scan: Scan, output_dir: Path, versions: Mapping[str, str]
) -> pe.Workflow:
    """Workflow of one scan: a node with ``products``, and the sink that writes them."""
    save = pe.Node(
        SaveProducts(output_dir=str(output_dir), common={"SoftwareVersions": dict(versions)}),
        name="save",
        overwrite=True,
    )
    session = f"_ses_{scan.session}" if scan.session else ""
    person = pe.Workflow(f"sub_{scan.participant}{session}")
    person.connect([(node, save, [(("products", in_list), "products")])])
    return person


def harmonised_by(model: StoredModel, output_dir: Path) -> dict[str, dict[str, str]]:
    """Participant to site and covariates, where the model was trained on harmonised images."""
    told, path = model.card.get("Harmonisation"), output_dir / "participants.tsv"
    if not told or not path.exists():
        return {}
    table = read_table(path)
    table.index = "sub-" + table["participant_id"].str.strip().str.removeprefix("sub-")
    columns = [one for one in (told["Site"], *told["Preserve"]) if one in table]
    return {
        str(who): {name: text(row[name]) for name in columns if pd.notna(row[name])}
        for who, row in table.iterrows()
    }


def in_list(products: dict) -> list:
    """One set of products as the list that the sink takes."""
    return [products]


def group_tables(model: StoredModel, output_dir: Path) -> dict[str, str]:
    """Region table of the group per method, where the group level has written it here."""
    names = HeatmapNames(
        model.name, model.card["Classes"][1], model.grid, model.modality, model.space
    )
    tables: dict[str, str] = {}
    if model.space != SPACE:  # there are no tables of regions
        return tables
    for attribution in model.card["Attributions"]:
        method = attribution["name"]
        entities = names.entities(method, atlas=label(atlas(model.card["Atlas"]).name))
        path = output_dir / relative_path("heatmap", ".tsv", entities)
        if path.exists():
            tables[method] = str(path)
    return tables
