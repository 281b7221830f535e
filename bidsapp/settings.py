"""Settings of one run: a recipe, what the command line overrides of it, and where things lie."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from models.errors import InputError
from models.grids import GRIDS, Grid
from models.training.protocol import Protocol
from models.training.search import Search
from models.training.splits import Plan
from models.training.transfer import Transfer
from models.uptake import REFERENCES
from models.volumes import INTENSITIES
from pipelines.baselines import BASELINES, BaselineOptions
from pipelines.choices import ATTRIBUTION_KEYS, EXPLAINED, JACOBIAN
from pipelines.diffusion_options import MAPS, Diffusion
from pipelines.harmonisation import METHODS, HarmonisationOptions
from pipelines.preprocess import MODALITIES, REGISTRATIONS
from pipelines.statistics import CORRECTIONS, StatisticsOptions, contrast_label
from pipelines.view import Mask, Sides, View

T = TypeVar("T")
SESSIONS = ("first", "last", "all")
BRAIN_EXTRACTIONS = ("deepbet", "robex")
LESIONS = ("keep", "fill", "fill_local")
BY_TEMPLATE = ("T1w", "dwi")  # modalities that may go to MNI by a template of the user's
UNREGISTERED = ("T1w", "dwi")  # modalities whose images may stay in the person's space


def _of_images(modality: str) -> tuple[str, ...]:
    """Maps of images that are tested: a tensor has several, and is none itself."""
    return MAPS if modality == "dwi" else ("image",)


@dataclass(frozen=True)
class Input:
    """[input]: which images are used."""

    modality: str = "T1w"

    def __post_init__(self) -> None:
        _one_of("[input] modality", self.modality, tuple(MODALITIES))


@dataclass(frozen=True)
class Spect:
    """[preprocessing.spect]: filter, template, reference region and hottest voxels of SPECT."""

    template: str = ""
    reference: str = "brain"
    percentile: float = 75.0
    putamen_ml: float = 10.0
    caudate_ml: float = 5.0
    cutoff_per_cm: float = 1.25

    def __post_init__(self) -> None:
        _one_of("[preprocessing.spect] reference", self.reference, REFERENCES)
        _between("[preprocessing.spect] cutoff_per_cm", self.cutoff_per_cm, 0.1, 10)
        _between("[preprocessing.spect] percentile", self.percentile, 1, 99)
        _between("[preprocessing.spect] putamen_ml", self.putamen_ml, 0.1, 20)
        _between("[preprocessing.spect] caudate_ml", self.caudate_ml, 0.1, 20)


@dataclass(frozen=True)
class Preprocessing:
    """[preprocessing]: registration and the grid and scale that the network sees."""

    registration: str = "nonlinear"
    resolution_mm: float = 1.0
    grid: str = "2mm"
    intensity: str = "max"
    brain_extraction: str = "deepbet"
    denoise: str = "none"
    lesions: str = "keep"
    crop: tuple[tuple[int, ...], ...] = ()
    mask: Mask = field(default_factory=Mask)
    mirror: bool = False
    spect: Spect = field(default_factory=Spect)
    dwi: Diffusion = field(default_factory=Diffusion)
    sides: Sides = field(default_factory=Sides)
    template: str = ""

    def __post_init__(self) -> None:
        _one_of("[preprocessing] lesions", self.lesions, LESIONS)
        _one_of("[preprocessing] registration", self.registration, REGISTRATIONS)
        _one_of("[preprocessing] intensity", self.intensity, tuple(INTENSITIES))
        _one_of("[preprocessing] brain_extraction", self.brain_extraction, BRAIN_EXTRACTIONS)
        _one_of("[preprocessing] denoise", self.denoise, ("none", "nlm"))
        _between("[preprocessing.mask] margin_mm", self.mask.margin_mm, 0, 50)
        if self.mask.regions and self.registration == "none":
            raise InputError(
                "[preprocessing.mask] regions: lie where the atlas has them, and images without "
                "registration do not: choose [preprocessing] registration = 'linear' or 'nonlinear'"
            )
        _one_of("[preprocessing] grid", self.grid, tuple(GRIDS))
        _between("[preprocessing] resolution_mm", self.resolution_mm, 0.5, 6)

    @property
    def network_grid(self) -> Grid:
        """The grid of the network's input."""
        return GRIDS[self.grid].cropped(self.crop)

    @property
    def view(self) -> View:
        """What of an image the network sees."""
        return View(self.mask, self.mirror, self.sides)


@dataclass(frozen=True)
class Uses:
    """Which sessions of a person train a network, and which one is judged."""

    train: str = "all"
    test: str = "first"


@dataclass(frozen=True)
class Sessions:
    """[cohort.sessions]: the choice of sessions, for each class."""

    positive: Uses = field(default_factory=Uses)
    negative: Uses = field(default_factory=Uses)

    def __post_init__(self) -> None:
        for name, uses in (("positive", self.positive), ("negative", self.negative)):
            _one_of(f"[cohort.sessions.{name}] train", uses.train, SESSIONS)
            _one_of(f"[cohort.sessions.{name}] test", uses.test, ("first", "last"))


@dataclass(frozen=True)
class Exclude:
    """[cohort.exclude]: who is left out, by columns of participants.tsv and sessions.tsv.

    A column and a value, or a list of values. Of sessions.tsv, one session with such a value is
    enough: controls who later convert are ``negative = {diagnosis = ["MCI", "AD"]}``.
    """

    everybody: dict[str, Any] = field(default_factory=dict)
    positive: dict[str, Any] = field(default_factory=dict)
    negative: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("everybody", "positive", "negative"):
            for column, values in getattr(self, name).items():
                listed = values if isinstance(values, list | tuple) else [values]
                if not listed or not all(isinstance(one, str | int | float) for one in listed):
                    raise InputError(
                        f"[cohort.exclude] {name}: {column} = {values!r} must be a value or a list "
                        "of values"
                    )

    def rules(self, positive: bool) -> dict[str, tuple[str, ...]]:
        """Column to the values, as text, that rule out a person of a class."""
        rules: dict[str, tuple[str, ...]] = {}
        for table in (self.everybody, self.positive if positive else self.negative):
            for column, values in table.items():
                listed = values if isinstance(values, list | tuple) else (values,)
                rules[column] = rules.get(column, ()) + tuple(map(_plain, listed))
        return rules


def _plain(value: Any) -> str:
    """A value as it reads in a table: 70.0 as 70."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


@dataclass(frozen=True)
class Cohort:
    """[cohort]: who is compared with whom, by columns of participants.tsv."""

    target: str = ""
    positive: str = ""
    negative: str = ""
    covariates: tuple[str, ...] = ()
    site: str = ""
    group: str = ""
    sessions: Sessions = field(default_factory=Sessions)
    exclude: Exclude = field(default_factory=Exclude)


@dataclass(frozen=True)
class Balance:
    """[training.balance]: undersampling, within each class.

    ``column`` is made equally frequent within each cell of the columns ``within``; a column of
    numbers is cut into bins as in ``"age:5"``.
    """

    column: str = ""
    within: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.within and not self.column:
            raise InputError("[training.balance] within: say by column what is to be balanced")
        for name in (self.column, *self.within):
            column_and_bin("[training.balance]", name)


@dataclass(frozen=True)
class Training:
    """[training]: how the cohort is split and, in [training.protocol], how a fold is trained."""

    split: str = "kfold"
    folds: int = 5
    repeats: int = 1
    runs: int = 1
    test_share: float = 0.2
    test_people: int = 0
    validation_share: float = 0.15
    validation_people: int = 0
    equal_parts: bool = False
    stratify: tuple[str, ...] = ()
    balance: Balance = field(default_factory=Balance)
    threshold: float | str = 0.5
    protocol: Protocol = field(default_factory=Protocol)
    transfer: Transfer = field(default_factory=Transfer)
    search: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        if self.search.draws and self.protocol.select == "last":
            raise InputError(
                "[training.search]: needs validation people to judge the draws by; give "
                "[training.protocol] select a validation metric"
            )
        _one_of("[training] split", self.split, ("kfold", "holdout"))
        for name, least, most in (
            ("folds", 2, math.inf),
            ("repeats", 1, math.inf),
            ("runs", 1, math.inf),
            ("test_share", 0.01, 0.9),
            ("test_people", 0, math.inf),
            ("validation_share", 0, 0.9),
            ("validation_people", 0, math.inf),
        ):
            _between(f"[training] {name}", getattr(self, name), least, most)
        for name in self.stratify:
            column_and_bin("[training] stratify", name)
        _check_threshold(self)

    @property
    def plan(self) -> Plan:
        """How the people are divided."""
        values = {
            one.name: getattr(self, one.name) for one in fields(Plan) if one.name != "holdout"
        }
        return Plan(holdout=self.split == "holdout", **values)


def _check_threshold(training: Training) -> None:
    if isinstance(training.threshold, str):
        _one_of("[training] threshold", training.threshold, ("validation",))
        if not training.validation_share and not training.validation_people:
            raise InputError(
                "[training] threshold = 'validation' needs validation people: raise "
                "validation_share, or set validation_people"
            )
    elif not 0 < training.threshold < 1:
        raise InputError(
            f"[training] threshold = {training.threshold:g}: must be a probability between 0 and "
            "1, or 'validation'"
        )


def column_and_bin(where: str, text: str) -> tuple[str, float | None]:
    """Column and width of its bins: ``"age:5"`` is ("age", 5.0), ``"site"`` is ("site", None)."""
    column, colon, width = text.rpartition(":")
    if not colon:
        return text, None
    try:
        number = float(width)
    except ValueError:
        number = 0.0
    if not column or not 0 < number < math.inf:
        raise InputError(
            f"{where}: '{text}' must be a column, or a column and the width of its bins, as in "
            "'age:5'"
        )
    return column, number


@dataclass(frozen=True)
class Regions:
    """[regions]: the atlas of the region tables, and where the volumes of regions come from.

    ``exclude`` are regions that do not count for the percentile above which clusters lie.
    """

    atlas: str = "AAL"
    volumes: dict[str, str] = field(default_factory=dict)
    exclude: Mask = field(default_factory=Mask)

    def __post_init__(self) -> None:
        for region, column in self.volumes.items():
            if not isinstance(column, str):
                raise InputError(
                    f"[regions] volumes: {region} = {column!r} must name a column, or be 'jacobian'"
                )


@dataclass(frozen=True)
class Anomaly:
    """[anomaly]: how controls are divided, and what counts as abnormal."""

    splits: int = 10
    test_share: float = 15 / 56
    match_tolerance: float = 0.25
    quantile: float = 0.98
    measure: str = "error"
    nuclei: str = ""
    least_voxels: int = 10
    one_class_stride: int = 0

    def __post_init__(self) -> None:
        _between("[anomaly] splits", self.splits, 1)
        _between("[anomaly] test_share", self.test_share, 0.01, 0.9)
        _between("[anomaly] match_tolerance", self.match_tolerance, 0.01)
        _one_of("[anomaly] measure", self.measure, ("error", "z"))
        _between("[anomaly] quantile", self.quantile, 0.5, 0.9999)
        _between("[anomaly] least_voxels", self.least_voxels, 1)
        _between("[anomaly] one_class_stride", self.one_class_stride, 0)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a result; one TOML file."""

    name: str = "t1w"
    description: str = ""
    citations: tuple[str, ...] = ()
    input: Input = field(default_factory=Input)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    cohort: Cohort = field(default_factory=Cohort)
    network: dict[str, Any] = field(default_factory=lambda: {"name": "boehle2019"})
    training: Training = field(default_factory=Training)
    harmonisation: HarmonisationOptions = field(default_factory=HarmonisationOptions)
    baselines: BaselineOptions = field(default_factory=BaselineOptions)
    attribution: tuple[dict[str, Any], ...] = ()
    autoencoder: tuple[dict[str, Any], ...] = ()
    anomaly: Anomaly = field(default_factory=Anomaly)
    regions: Regions = field(default_factory=Regions)
    statistics: StatisticsOptions = field(default_factory=StatisticsOptions)

    def __post_init__(self) -> None:
        _check_network(self.network)
        object.__setattr__(self, "attribution", tuple(_named(dict(a)) for a in self.attribution))
        names = [one["name"] for one in self.attribution]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InputError(f"two [[attribution]] are called '{doubled[0]}': name one otherwise")
        if self.preprocessing.intensity == "binding" and self.input.modality != "spect":
            raise InputError(
                "[preprocessing] intensity = 'binding' is of SPECT images, which have a reference "
                "region: choose max, minmax, percentile or zscore"
            )
        own = self.preprocessing.registration == "none"
        if own and self.input.modality not in UNREGISTERED:
            raise InputError(
                f"[preprocessing] registration = 'none' is for {' and '.join(UNREGISTERED)}, not "
                f"for {self.input.modality}: choose one of: nonlinear, linear"
            )
        if self.preprocessing.template and self.input.modality not in BY_TEMPLATE:
            raise InputError(
                f"[preprocessing] template is for {' and '.join(BY_TEMPLATE)}, not for "
                f"{self.input.modality}: leave it out (SPECT has [preprocessing.spect] template)"
            )
        if self.preprocessing.lesions != "keep" and self.input.modality != "FLAIR":
            raise InputError(
                f"[preprocessing] lesions = '{self.preprocessing.lesions}' is for FLAIR images, "
                f"not for {self.input.modality}: leave it out"
            )
        object.__setattr__(self, "autoencoder", _detectors(self.autoencoder))
        for name in self.statistics.maps:
            _one_of("[statistics] maps", name, (*_of_images(self.input.modality), *names))
        _check_statistics(self.statistics)
        _check_baselines(self.baselines)
        _check_harmonisation(self)
        _check_volumes(self)

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, as in the TOML file."""
        return asdict(self)

    def overridden(self, changes: Mapping[str, Any], source: str = "") -> "Recipe":
        """A copy with some values replaced; ``changes`` is nested like the TOML file.

        ``source`` is the file to name when they cannot be.
        """
        return parse(Recipe, _merge(self.as_dict(), changes), source or self.name)


@dataclass(frozen=True)
class Settings:
    """One call of the command line."""

    bids_dir: Path
    output_dir: Path
    levels: tuple[str, ...]
    recipe: Recipe
    work_dir: Path
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by modality
    dataset_links: Mapping[str, str] = field(default_factory=dict)
    derivatives: Mapping[str, str] = field(default_factory=dict)  # name to folder
    model: str | None = None
    explain: bool = True  # with a stored model, at participant level
    device: str = "cpu"
    gpus: int = 0
    gpus_per_fold: int = 1
    nprocs: int = 1
    omp_nthreads: int = 1
    memory_gb: float = 4.0
    plugin: str = "MultiProc"
    plugin_args: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    force: bool = False
    clean_workdir: bool = False
    stop_on_first_crash: bool = False
    dry_run: bool = False
    reports_only: bool = False
    boilerplate_only: bool = False
    write_graph: bool = False
    verbose: bool = False
    command: tuple[str, ...] = ()
    recipe_source: str = "t1w"  # name or file, as it was given


# --- recipes -------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    """Names of the recipes that come with the app."""
    folder = resources.files("bidsapp") / "recipes"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or a TOML file.

    Raises
    ------
    models.errors.InputError
        No such recipe, not valid TOML, an unknown key or a value of the wrong type.
    """
    return parse(Recipe, read_toml(name_or_path), name_or_path)


def read_toml(name_or_path: str, extended: tuple[str, ...] = ()) -> dict[str, Any]:
    """Content of a recipe, unchecked, laid over the one that it ``extends``.

    Files that it names are sought beside it. ``extended`` are the recipes on the way to this one.
    """
    path = Path(name_or_path)
    if name_or_path in recipe_names():
        text = (resources.files("bidsapp") / "recipes" / f"{name_or_path}.toml").read_text()
    elif path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
    else:
        near = get_close_matches(name_or_path, recipe_names(), n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise InputError(
            f"recipe '{name_or_path}': neither a shipped recipe nor a file; {hint}shipped are: "
            f"{', '.join(recipe_names())}"
        )
    try:
        table = _anchored(tomllib.loads(text), path.parent if path.is_file() else None)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"recipe {name_or_path}: not valid TOML: {error}") from error
    base = table.pop("extends", None)
    if base is None:
        return table
    if base in (name_or_path, *extended):
        raise InputError(f"recipe {name_or_path}: extends = '{base}' leads back to itself")
    return _merge(read_toml(str(base), (*extended, name_or_path)), table)


def _anchored(table: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Make ``[network] file``, and a folder named by ``[training.transfer] model``, absolute."""
    training = table.get("training")
    transfer = training.get("transfer") if isinstance(training, dict) else None
    for place, key in ((table.get("network"), "file"), (transfer, "model")):
        if folder is None or not isinstance(place, dict) or not isinstance(place.get(key), str):
            continue
        beside = (folder / place[key]).absolute()
        if key == "file" or (place[key] and beside.is_dir()):
            place[key] = str(beside)
    return table


def parse(kind: type[T], table: Mapping[str, Any], source: str, where: str = "") -> T:
    """Make a dataclass of a TOML table; unknown keys fail with the nearest known one."""
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    values = {}
    for key, value in table.items():
        place = f"[{where}] {key}" if where else key
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(known))}"
            raise InputError(f"recipe {source}: unknown key {place}; {hint}")
        values[key] = _value(hints[key], value, source, f"{where}.{key}".lstrip("."))
    return kind(**values)


def _value(hint: Any, value: Any, source: str, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InputError(f"recipe {source}: {where} must be a table")
        return parse(hint, value, source, where)
    base = get_origin(hint) or hint
    if base in (Union, UnionType):
        listed = isinstance(value, list | tuple)
        kinds = [one for one in get_args(hint) if isinstance(value, get_origin(one) or one)]
        kinds = kinds or [one for one in get_args(hint) if (get_origin(one) is tuple) == listed]
        kinds = kinds or list(get_args(hint))
        text = str in kinds and isinstance(value, str)
        return value if value is None else _value(str if text else kinds[0], value, source, where)
    if base is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise InputError(f"recipe {source}: {where} must be a list, not {value!r}")
        return tuple(_value(get_args(hint)[0], one, source, where) for one in value)
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, base) and not (base is int and isinstance(value, bool)):
        return value
    raise InputError(f"recipe {source}: {where} must be {base.__name__}, not {value!r}")


def _check_network(network: Mapping[str, Any]) -> None:
    if ("name" in network) == ("file" in network):
        raise InputError(
            "[network]: give either the name of a network or the file of your own "
            f"(there: {', '.join(network) or 'nothing'})"
        )
    if "sha256" in network:
        raise InputError("[network] sha256: is written by the app; leave it out")


def _named(attribution: dict[str, Any]) -> dict[str, Any]:
    """Check an [[attribution]] and give it its default name."""
    from models.attribution import check_parameters

    method = attribution.get("method", "")
    check_parameters(method, {k: v for k, v in attribution.items() if k not in ATTRIBUTION_KEYS})
    _one_of("[[attribution]] explain", attribution.get("explain", "positive"), EXPLAINED)
    if attribution.get("explain") == "predicted" and "unit" in attribution:
        raise InputError("[[attribution]]: a unit is no class; leave out explain = 'predicted'")
    attribution.setdefault("name", method.replace("_", ""))
    if not str(attribution["name"]).isalnum():
        raise InputError(f"[[attribution]] name '{attribution['name']}': letters and digits only")
    return attribution


def _detectors(entries: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Check each [[autoencoder]] and give it its default name."""
    from models.anomaly import METHODS

    named = []
    for entry in entries:
        _one_of("[[autoencoder]] method", str(entry.get("method", "")), tuple(METHODS))
        named.append({"name": entry["method"], **entry})
        if not str(named[-1]["name"]).isalnum():
            raise InputError(f"[[autoencoder]] name '{named[-1]['name']}': letters and digits only")
    names = [one["name"] for one in named]
    if len(set(names)) < len(names):
        raise InputError("two [[autoencoder]] are called the same: name one otherwise")
    return tuple(named)


def _check_statistics(options: StatisticsOptions) -> None:
    _between("[statistics] permutations", options.permutations, 1)
    _between("[statistics] alpha", options.alpha, 0.0001, 0.5)
    _between("[statistics] smoothing_fwhm_mm", options.smoothing_fwhm_mm, 0)
    _between("[statistics] min_cluster_mm3", options.min_cluster_mm3, 0)
    _between("[statistics] cluster_p", options.cluster_p, 1e-6, 0.1)
    _between("[statistics] memory_mb", options.memory_mb, 0)
    for name in options.corrections:
        _one_of("[statistics] corrections", name, tuple(CORRECTIONS))
    if not options.corrections or len(set(options.corrections)) < len(options.corrections):
        raise InputError("[statistics] corrections: name at least one, and each once")
    if "random_field" in options.corrections:
        _between("[statistics] alpha with random_field", options.alpha, 0.0001, 0.29)
    _check_design(options)


def _check_design(options: StatisticsOptions) -> None:
    if options.terms and not options.contrast:
        raise InputError("[statistics] terms: say by contrast what of them is tested")
    if options.contrast:
        contrast_label(options.contrast)
    for name in options.categorical:
        _one_of("[statistics] categorical", name, tuple(options.columns))
    parametric = " and ".join(sorted({"fdr", "random_field"} & set(options.corrections)))
    if options.variance_groups and parametric:
        raise InputError(
            f"[statistics] variance_groups: {parametric} assume one variance; leave one of both out"
        )
    if options.exchange_whole and parametric:
        raise InputError(
            f"[statistics] exchange_whole: {parametric} assume that people are independent; leave "
            "one of both out"
        )
    if options.exchange_within and options.flips:
        raise InputError(
            "[statistics] exchange_within: signs are flipped here, nobody changes places; leave it "
            "out"
        )


def _check_baselines(options: BaselineOptions) -> None:
    for name in options.names:
        _one_of("[baselines] names", name, tuple(BASELINES))
    if len(set(options.names)) < len(options.names):
        raise InputError("[baselines] names: name each baseline once")
    for key, values in (("c", options.c), ("gamma", options.gamma)):
        if not values:
            raise InputError(f"[baselines] {key}: give at least one value")
        _between(f"[baselines] {key}", min(values), 1e-12)
    _between("[baselines] pca", options.pca, 0)
    _between("[baselines] inner_folds", options.inner_folds, 2)


def _check_volumes(recipe: Recipe) -> None:
    """Without registration they are not computed, which is said; else something must bend."""
    if JACOBIAN not in recipe.regions.volumes.values():
        return
    if recipe.input.modality != "T1w":
        raise InputError(
            f"[regions] volumes: '{JACOBIAN}' is for T1w images, not for {recipe.input.modality}; "
            "name columns of participants.tsv"
        )
    if recipe.preprocessing.registration == "linear":
        raise InputError(
            f"[regions] volumes: '{JACOBIAN}' needs [preprocessing] registration = 'nonlinear'. A "
            "linear one scales all regions of a brain alike, so it tells nothing of a region; "
            "choose it, or name columns of participants.tsv"
        )


def _check_harmonisation(recipe: Recipe) -> None:
    options, cohort = recipe.harmonisation, recipe.cohort
    _one_of("[harmonisation] method", options.method, METHODS)
    if not options.wanted:
        return
    if not cohort.site:
        raise InputError(
            f"[harmonisation] method = '{options.method}': say by [cohort] site which column of "
            "participants.tsv holds the site of each person"
        )
    if recipe.preprocessing.registration == "none":
        raise InputError(
            "[harmonisation]: voxels are harmonised one by one, so images must be registered: "
            "choose [preprocessing] registration = 'linear' or 'nonlinear'"
        )
    if cohort.site in options.preserve:
        raise InputError("[harmonisation] preserve: the site is what is taken off; leave it out")
    if cohort.target and cohort.target in options.preserve:
        raise InputError(
            f"[harmonisation] preserve: '{cohort.target}' is what is predicted. To keep it, the "
            "class of the people who are tested would have to be known: leave it out. Classes of "
            "training people are told apart from their sites anyway (use_labels)"
        )


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = get_close_matches(value, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise InputError(f"{what} = '{value}' is unknown; {hint}choose one of: {', '.join(known)}")


def _between(what: str, value: float, least: float, most: float = math.inf) -> None:
    if not least <= value <= most:
        limits = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise InputError(f"{what} = {value:g}: must be {limits}")


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        if key == "network" or not both:
            merged[key] = value
        else:
            merged[key] = _merge(merged[key], value)
    return merged
