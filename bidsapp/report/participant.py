"""The page of one participant."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bidsapp.report import anomaly, heatmaps, notes, performance, wording
from bidsapp.report.current import Current, only_current
from bidsapp.report.methods import methods_text
from bidsapp.report.page import HEATMAPS, Statement, Table, write
from bidsapp.report.shelf import Item, Picture, Shelf
from pipelines.derivatives import OWN_SPACE
from pipelines.preprocess import REGISTRATIONS

_SCAN = ("ses", "acq", "run")


@dataclass(frozen=True)
class Scan:
    """Preprocessing of one image."""

    title: str
    flags: list[str]
    numbers: Table | None
    pictures: list[Picture]
    registrations: list[Picture]
    missing: list[str]


@dataclass(frozen=True)
class Prediction:
    """What the networks said about one image."""

    title: str
    probability: float | None
    target: str
    sentences: list[str]


@dataclass(frozen=True)
class Heatmap:
    """One map with everything that is known about it."""

    title: str
    anchor: str
    meaning: str
    picture: Picture | None
    facts: list[tuple[str, str]]
    ledger: list[tuple[str, str, str]]
    balance: str
    regions: Table | None
    warnings: list[str]
    not_computed: list[str]


def participant_page(output_dir: Path, participant: str) -> Path:
    """Write the page of a participant from the derivatives on disk.

    Parameters
    ----------
    output_dir
        The derivatives folder.
    participant
        Label, with or without `sub-`.

    Returns
    -------
    Path
        `<output_dir>/sub-<label>.html`, one self-contained file. What the derivatives lack is
        named on the page; nothing missing stops it.
    """
    shelf = Shelf(Path(output_dir))
    label = participant.removeprefix("sub-")
    log_name = f"participant-{label}"
    log = shelf.log(log_name) or shelf.log(f"participant-sub-{label}")
    row = _identity(shelf, label)
    scans = _scans(shelf, label)
    maps = _heatmaps(shelf, label)
    anomalies = anomaly.person_anomalies(shelf, label)
    answers = _answers(shelf, label)
    recipe = notes.recipe(shelf, log, answers[0][0]["model"] if answers else None)
    predictions = [
        _prediction(found, answer, _truth(row, notes.recipe(shelf, log, found["model"])))
        for found, answer in answers
    ]
    alarm = _alarm(shelf, [found["model"] for found, _ in answers])
    stages = [*_stages(predictions, maps), *(["anomaly"] if anomalies else [])]
    methods = methods_text(recipe, notes.versions(shelf, log), stages=stages)
    found = notes.gather(
        shelf,
        {f"logs/{log_name}.json": log},
        f"sub-{label}/**/*.json",
        keep=lambda one: bool(only_current(shelf, [one])),
    )
    return write(
        "participant.html.j2",
        shelf.root / f"sub-{label}.html",
        title=f"sub-{label}",
        identity=[(wording.title(key), wording.words(value)) for key, value in row.items()],
        run=_run(log),
        statements=_statements(scans, predictions, maps, found, alarm),
        scans=scans,
        predictions=predictions,
        heatmaps=maps,
        anomalies=anomalies,
        anomaly_caution=anomaly.caution(shelf, anomalies),
        has_group=(shelf.root / "group.html").is_file(),
        notes=found,
        troubles=shelf.troubles,
        logged=bool(log),
        methods=methods if recipe else None,
        versions=notes.versions(shelf, log),
        caution=alarm or HEATMAPS,
        alarmed=alarm is not None,
    )


def _identity(shelf: Shelf, label: str) -> dict[str, Any]:
    people = shelf.table(shelf.root / "participants.tsv")
    if "participant_id" not in people:
        return {}
    rows = people[people["participant_id"].isin([label, f"sub-{label}"])]
    if rows.empty:
        return {}
    row = rows.iloc[0].drop("participant_id")
    return {str(key): None if pd.isna(value) else value for key, value in row.items()}


def _run(log: Mapping[str, Any]) -> list[tuple[str, str]]:
    command = log.get("Command")
    return [
        ("Command", " ".join(map(str, command)) if isinstance(command, list) else ""),
        ("Started", str(log.get("StartTime") or "")),
        ("Ended", str(log.get("EndTime") or "")),
    ]


def _stages(predictions: list[Prediction], maps: list[Heatmap]) -> list[str]:
    happened = {"preprocessing": True, "network": bool(predictions), "attribution": bool(maps)}
    return [stage for stage, done in happened.items() if done]


def _alarm(shelf: Shelf, models: list[str]) -> str | None:
    """Warn where a model that answered here is known not to beat chance."""
    named = [one for one in dict.fromkeys(models) if one]
    alarms = {one: performance.alarm(performance.stored(shelf, one)) for one in named}
    said = [f"Model {model}: {text}" for model, text in alarms.items() if text]
    return " ".join(said) or None


# --- preprocessing -------------------------------------------------------------------------------

ONLY = "The scan"  # of a person who has one


def _scan_title(found: Item) -> str:
    names = {"ses": "Session", "acq": "Acquisition", "run": "Run"}
    parts = [_kind(found), *(f"{names[key]} {found[key]}" for key in _SCAN if found[key])]
    return ", ".join(filter(None, parts)) or ONLY


def _in_sentence(title: str) -> str:
    """The title inside of a sentence; names of modalities and labels stay as they are."""
    return re.sub(
        r"(^|, )(The|Session|Acquisition|Run|Diffusion)\b", lambda word: word[0].lower(), title
    )


def _kind(found: Item) -> str:
    """What titles call the kind of image; "" for T1w."""
    kinds = {"FLAIR": _is_flair, "SPECT": _is_spect, "Diffusion": _is_diffusion}
    return ", ".join(name for name, is_one in kinds.items() if is_one(found))


def _is_flair(found: Item) -> bool:
    return "FLAIR" in (found.suffix, found["mod"])


def _is_diffusion(found: Item) -> bool:
    return found.suffix == "dwi" or found.path.parent.name == "dwi"


def _is_spect(found: Item) -> bool:
    return "spect" in (found.suffix, found["mod"], found.path.parent.name)


def _scans(shelf: Shelf, label: str) -> list[Scan]:
    tables = shelf.find(f"sub-{label}/**/*_qc.tsv")
    pictures = [
        one for one in shelf.find(f"sub-{label}/figures/*.png") if one["desc"] and not one["method"]
    ]
    firsts: dict[str, Item] = {}
    for one in [*tables, *pictures]:
        firsts.setdefault(_scan_title(one), one)
    several = {_kind(one) for one in firsts.values()} > {""}
    return [
        _scan(
            shelf,
            _beside_others(title) if several and not _kind(first) else title,
            [t for t in tables if _scan_title(t) == title],
            [p for p in pictures if _scan_title(p) == title],
        )
        for title, first in firsts.items()
    ]


def _beside_others(title: str) -> str:
    """Title of a T1w image on a page that has images of another kind."""
    return "T1w" if title == ONLY else f"T1w, {title}"


# What a scan's pictures are expected to be, by the beginning of their desc.
_PICTURES = {
    "T1w": {"mask": "the picture of the brain mask", "registration": "that of the registration"},
    "dwi": {
        "mask": "the picture of the brain mask",
        "colour": "that of the directions",
        "registration": "that of the registration",
        "motion": "the motion trace",
    },
    "spect": {"display": "the transversal display", "registration": "that of the registration"},
}


def _scan(shelf: Shelf, title: str, tables: list[Item], figures: list[Item]) -> Scan:
    rows = [(one, shelf.table(one.path)) for one in sorted(tables, key=_order)]
    known = [(one, table.iloc[0]) for one, table in rows if len(table)]
    variants = _variants([one for one, _ in known])
    numbers = [(variant, row) for variant, (_, row) in zip(variants, known, strict=True)]
    shown = _figures(shelf, figures)
    lacking = _PICTURES[_kind_of([*tables, *figures])]
    missing = [
        words
        for start, words in lacking.items()
        if not any(desc.startswith(start) for desc, _ in shown)
    ]
    return Scan(
        title,
        _flags(numbers),
        _numbers(numbers) if numbers else None,
        [picture for desc, picture in shown if not desc.startswith("registration")],
        [picture for desc, picture in shown if desc.startswith("registration")],
        missing + ([] if numbers else ["the table of quality numbers"]),
    )


def _kind_of(files: Sequence[Item]) -> str:
    """Whose pictures a scan should have."""
    if any(map(_is_spect, files)):
        return "spect"
    return "dwi" if any(one.suffix == "dwi" for one in files) else "T1w"


def _order(found: Item) -> tuple[int, str, str]:
    """Registrations from the most to the least that was done, then resolutions and fillings."""
    kind = found["desc"].removeprefix("registration").lower()
    place = REGISTRATIONS.index(kind) if kind in REGISTRATIONS else len(REGISTRATIONS)
    return place, found["res"], found["desc"]


def _figures(shelf: Shelf, figures: list[Item]) -> list[tuple[str, Picture]]:
    """What can be read of the pictures, each with its desc."""
    several = [one for one in figures if one["desc"].startswith("registration")]
    told = dict(zip([one.path for one in several], _variants(several), strict=True))
    pictures = [
        (one["desc"], _qc_picture(shelf, one, told.get(one.path, "")))
        for one in sorted(figures, key=_order)
    ]
    return [(desc, picture) for desc, picture in pictures if picture]


def _flags(numbers: Sequence[tuple[str, pd.Series]]) -> list[str]:
    """Flags of a scan; which variant has them is said where not all do."""
    found = [(variant, wording.flags(row.get("flags"))) for variant, row in numbers]
    every = list(dict.fromkeys(flag for _, flags in found for flag in flags))
    said = []
    for flag in every:
        having = [variant for variant, flags in found if flag in flags]
        said += [flag] if len(having) == len(found) else [f"{flag} ({one})" for one in having]
    return said


def _variants(files: list[Item]) -> list[str]:
    """Tell each of several registrations from the others: by its kind, its resolution or both."""
    kinds = [one["desc"].removeprefix("registration").lower() for one in files]
    resolutions = [one["res"] for one in files]
    told = {
        "registration": kinds if len(set(kinds)) > 1 else [],
        "resolution": resolutions if len(set(resolutions)) > 1 else [],
    }
    return [
        ", ".join(
            f"{what} {_spaced(values[k])}" for what, values in told.items() if values and values[k]
        )
        for k in range(len(files))
    ]


def _spaced(value: str) -> str:
    """Write the label of a grid for reading: `1mm` becomes "1 mm"."""
    found = re.fullmatch(r"(\d+)(?:p(\d+))?mm", value)
    return f"{'.'.join(one for one in found.groups() if one)} mm" if found else value


def _numbers(numbers: Sequence[tuple[str, pd.Series]]) -> Table:
    """Quality numbers, the variants of a scan beside each other."""
    rows = [row for _, row in numbers]
    left_out = ["participant_id", "session_id", "flags", *(["registration"] if rows[1:] else [])]
    table = pd.DataFrame([row.drop(left_out, errors="ignore") for row in rows])
    cells = [
        [wording.title(str(key)), *(wording.number(value) for value in table[key])] for key in table
    ]
    heads = [wording.capital(one) for one, _ in numbers] if rows[1:] else ["Value"]
    caption = "Quality numbers of each variant" if rows[1:] else "Quality numbers"
    return Table(caption, ["Measure", *heads], cells, [False, *(True for _ in heads)])


def _qc_picture(shelf: Shelf, found: Item, variant: str = "") -> Picture | None:
    captions = {
        "mask": "Outline of the brain mask on the image. It should hug the brain: no skull or eyes "
        "inside, no cortex outside.",
        "registration": "Edges of the template on the registered image. They should follow the "
        "outer border, the ventricles and the folds.",
        "registrationNone": "Edges of the template over the brain that was padded or cropped to "
        "its grid. They need not fit; nothing was registered.",
        "display": "Transversal slices from below upwards, uptake over that of the reference "
        "region. The colours are the same for everybody.",
        "lesions": "Outlines of the lesion mask on the registered FLAIR image. Bright white matter "
        "should lie inside, and none outside.",
        "lesionsFilled": "The same with the lesions filled: nothing bright should be left in the "
        "outlines.",
        "colour": "Principal diffusion directions, as bright as they are anisotropic: red from "
        "side to side, green from back to front, blue from below upwards. The corpus callosum "
        "should be red in the midline, the corticospinal tracts blue; else the gradient table is "
        "wrong.",
        "motion": "Where the head was in each volume, against the first b0. Shaded volumes have "
        "damaged slices.",
        "anisotropy": "Edges of the anatomy on fractional anisotropy. White matter should lie "
        "within.",
        "striata": "Outlines of the template’s brain and striata on the registered image. The "
        "uptake of the striata should lie inside, or fade there.",
    }
    alt = {
        "mask": "Rows of brain slices with the outline of the brain mask",
        "registration": "Rows of brain slices with the edges of the template",
        "lesions": "Rows of brain slices with the outlines of the lesions",
        "display": "Transversal slices of the uptake",
        "colour": "Rows of brain slices with diffusion directions in colour",
        "motion": "Lines of shifts and turns of the head over the volumes",
        "anisotropy": "Rows of brain slices of fractional anisotropy with edges of the anatomy",
        "striata": "Rows of brain slices with the outlines of the template’s striata",
    }
    what = next((one for one in alt if found["desc"].startswith(one)), "")
    what = "striata" if what == "registration" and _is_spect(found) else what
    what = "anisotropy" if what == "registration" and _is_diffusion(found) else what
    own = "" if what == "anisotropy" else found["desc"]
    kind = "lesionsFilled" if what == "lesions" and "Filled" in own else what
    said = captions.get(own, captions.get(kind, found["desc"]))
    return shelf.picture(
        found,
        alt.get(what, f"Quality picture: {found['desc']}") + (f", {variant}" if variant else ""),
        (f"{wording.capital(variant)}. " if variant else "") + said,
    )


# --- prediction ----------------------------------------------------------------------------------


def _answers(shelf: Shelf, label: str) -> list[tuple[Item, dict[str, Any]]]:
    """Rows of predictions, with their files, of the class that their model is about now."""
    return [
        (found, {str(key): value for key, value in row.items()})
        for found in shelf.find(f"sub-{label}/**/*_predictions.tsv")
        for row in shelf.table(found.path).to_dict("records")
        if Current.of(shelf, found["model"]).explains(row.get("target"))
    ]


def _truth(identity: Mapping[str, Any], recipe: Mapping[str, Any]) -> str | None:
    """Label in participants.tsv: empty where it is missing, None without such a column."""
    target = str((recipe.get("cohort") or {}).get("target", ""))
    return wording.text(identity[target]) if target in identity else None


def _prediction(found: Item, row: Mapping[str, Any], truth: str | None) -> Prediction:
    target = wording.text(row.get("target")) or "the class explained"
    probability, answer = wording.mean(_known(row, "probability")), _known(row, "predicted")
    sentences = []
    if probability is not None:
        sentences.append(f"The probability of {target} is {probability:.2f}.")
    if answer is not None:
        sentences.append(f"The network’s answer is {answer}.")
    if truth is not None:
        sentences.append(_comparison(truth, wording.text(answer)))
    sentences.append(_ensemble(_known(row, "n_models"), _known(row, "out_of_fold")))
    session = f", {_in_sentence(_scan_title(found))}" if any(found[key] for key in _SCAN) else ""
    return Prediction(f"Model {found['model']}{session}", probability, target, sentences)


def _comparison(truth: str, answer: str) -> str:
    if not truth:
        return "participants.tsv has no label of this person to hold the answer against."
    agrees = ", which agrees" if truth == answer else ": the answer disagrees"
    return f"The label in participants.tsv is {truth}{agrees if answer else ''}."


def _known(row: Mapping[str, Any], key: str) -> Any:
    value = row.get(key)
    return None if value is None or (not isinstance(value, str) and pd.isna(value)) else value


def _ensemble(models: Any, out_of_fold: Any) -> str:
    how_many = "An unrecorded number of networks"
    if models is not None:
        how_many = wording.count(int(models), "network")
    if out_of_fold is None:
        return f"{how_many} answered; whether they had seen this person was not recorded."
    if str(out_of_fold).lower() == "true":
        return (
            f"{how_many} answered, none of which had seen this person in training or validation "
            "(out of fold)."
        )
    return (
        f"{how_many} answered together: the whole ensemble, as this person was not in the training "
        "cohort."
    )


# --- heatmaps ------------------------------------------------------------------------------------


def _heatmaps(shelf: Shelf, label: str) -> list[Heatmap]:
    """Every map that left an image, a picture or a region table."""
    images = only_current(shelf, shelf.find(f"sub-{label}/**/*_heatmap.nii.gz"))
    pictures = only_current(shelf, shelf.find(f"sub-{label}/figures/*_heatmap.png"))
    regions = only_current(shelf, shelf.find(f"sub-{label}/**/*_heatmap.tsv"))
    firsts: dict[tuple[str, ...], Item] = {}
    for one in [*images, *pictures, *regions]:
        firsts.setdefault(tuple(one[key] for key in heatmaps.SAME_MAP), one)
    return [
        _heatmap(shelf, one, _same(one, images), _same(one, pictures), _same(one, regions))
        for one in firsts.values()
    ]


def _same(one: Item, candidates: list[Item]) -> Item | None:
    return next((other for other in candidates if other.agrees(one, heatmaps.SAME_MAP)), None)


def _heatmap(
    shelf: Shelf, any_of: Item, image: Item | None, picture: Item | None, regions: Item | None
) -> Heatmap:
    sidecar = shelf.sidecar(image) if image else {}
    method = str(sidecar.get("Method") or any_of["method"])
    explained = str(sidecar.get("ExplainedClass") or any_of["target"])
    where = f" · {_in_sentence(_scan_title(any_of))}" if any(any_of[key] for key in _SCAN) else ""
    model = f" · model {any_of['model']}"
    title = wording.map_title(method, sidecar.get("Parameters"), explained)
    books, balance = wording.ledger(sidecar)
    table = shelf.table(regions.path) if regions else pd.DataFrame()
    return Heatmap(
        title=title + where + model,
        anchor="map-" + "-".join(value for value in any_of.entities.values() if value),
        meaning=wording.method_meaning(method),
        picture=_map_picture(shelf, picture, title, any_of["space"]) if picture else None,
        facts=heatmaps.facts(sidecar, method),
        ledger=books,
        balance=balance,
        regions=heatmaps.region_table(
            table, [], regions["atlas"] if regions else "", wording.method_name(method)
        ),
        warnings=[str(one) for one in sidecar.get("Warnings") or []],
        not_computed=[wording.capital(str(one)) for one in sidecar.get("NotComputed") or []],
    )


def _map_picture(shelf: Shelf, found: Item, title: str, space: str) -> Picture | None:
    own = space == OWN_SPACE
    whose = "of the scanner: the image was not registered" if own else "of the template"
    caption = (
        "Axial, coronal and sagittal slices; left of the brain on the left (letters L and R), "
        f"coordinates in mm {whose}."
    )
    return shelf.picture(found, f"Heatmap over brain slices. {title}", caption)


# --- summary -------------------------------------------------------------------------------------


def _statements(
    scans: list[Scan],
    predictions: list[Prediction],
    maps: list[Heatmap],
    found: notes.Notes,
    alarm: str | None,
) -> list[Statement]:
    said = [_quality(scans)]
    said += [Statement(f"{one.title}: {' '.join(one.sentences)}") for one in predictions]
    if alarm:
        said.append(Statement(alarm, "attention"))
    elif maps:
        said.append(Statement(HEATMAPS))
    if found.failures:
        steps = wording.count(len(found.failures), "step")
        said.append(Statement(f"{steps} failed; see Warnings and failures.", "attention"))
    elif found.warnings:
        said.append(
            Statement(f"The run gave {wording.count(len(found.warnings), 'warning')}.", "attention")
        )
    return said


def _quality(scans: list[Scan]) -> Statement:
    if not any(scan.numbers for scan in scans):
        return Statement("No quality numbers of the preprocessing were found.", "attention")
    flagged = [
        f"{_in_sentence(scan.title)}: {'; '.join(scan.flags)}" for scan in scans if scan.flags
    ]
    if flagged:
        return Statement(
            f"Look at the preprocessing first. {wording.capital(' · '.join(flagged))}.", "attention"
        )
    images = wording.count(len(scans), "image")
    return Statement(f"Preprocessing: nothing was flagged ({images}).", "good")
