"""Recipes: every key is known, of the right type and within limits, or a sentence says so."""

import re
import tomllib
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path

import pytest

from bidsapp.settings import (
    Cohort,
    Preprocessing,
    Recipe,
    Sessions,
    Settings,
    Training,
    Uses,
    column_and_bin,
    load_recipe,
    parse,
    read_toml,
    recipe_names,
)
from models.errors import InputError
from models.grids import GRIDS
from models.training.optimiser import adam
from pipelines.stored_models import new_network

EMPTY = Recipe()


def complaint(**tables):
    with pytest.raises(InputError) as caught:
        EMPTY.overridden(tables, "mine.toml")
    return str(caught.value)


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_say_what_they_are(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert recipe.attribution or recipe.autoencoder
    whole = GRIDS[recipe.preprocessing.grid]
    assert recipe.preprocessing.network_grid == whole.cropped(recipe.preprocessing.crop)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_survives_being_written_as_plain_values(name):
    recipe = load_recipe(name)
    assert parse(Recipe, recipe.as_dict(), name) == recipe
    assert recipe.overridden({}) == recipe


def test_what_the_file_says_is_what_is_read():
    text = (resources.files("bidsapp") / "recipes/ad-t1w.toml").read_text()
    raw, recipe = tomllib.loads(text), load_recipe("ad-t1w")
    assert recipe.training.protocol.learning_rate == raw["training"]["protocol"]["learning_rate"]
    assert recipe.training.protocol.augmentation.shift_axes == ("sagittal",)
    assert recipe.cohort.covariates == ("age", "sex")
    assert [one["name"] for one in recipe.attribution] == [
        "lrpalphabeta",  # the method without underscores where no name is given
        "lrpbeta1",
        "lrpepsilon",
        "guidedbackprop",
        "saliency",
    ]


def test_a_recipe_from_a_file(recipe):
    assert load_recipe(str(recipe)).name == "tiny"
    assert load_recipe(str(recipe)).preprocessing.registration == "linear"


def test_a_name_that_does_not_exist_gets_the_nearest():
    with pytest.raises(InputError, match=r"did you mean 'demo-t1w'\?.*shipped are: ad-t1w"):
        read_toml("demo-t1")


def test_a_file_that_is_no_toml_is_named(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_bytes(b"name = 'a\n\xff")
    with pytest.raises(InputError, match=r"mine\.toml: not valid TOML"):
        load_recipe(str(file))


# --- keys and types ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"trainings": {}}, ["unknown key trainings", "did you mean 'training'?"]),
        ({"training": {"fold": 3}}, ["unknown key [training] fold", "'folds'"]),
        ({"training": {"protocol": {"epoch": 3}}}, ["[training.protocol] epoch", "'epochs'"]),
        ({"cohort": {"zzz": 1}}, ["unknown key [cohort] zzz", "known:", "target"]),
        ({"statistics": {"permutation": 3}}, ["[statistics] permutation", "'permutations'"]),
    ],
)
def test_unknown_keys_name_file_place_and_the_nearest_key(tables, words):
    said = complaint(**tables)
    assert "mine.toml" in said
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"training": {"folds": "five"}}, "training.folds must be int, not 'five'"),
        ({"training": {"folds": True}}, "training.folds must be int, not True"),
        ({"training": {"folds": 2.5}}, "training.folds must be int, not 2.5"),
        ({"training": 3}, "training must be a table"),
        ({"cohort": {"covariates": "age"}}, "cohort.covariates must be a list, not 'age'"),
        ({"cohort": {"covariates": [1]}}, "cohort.covariates must be str, not 1"),
        ({"attribution": {"method": "saliency"}}, "attribution must be a list"),
    ],
)
def test_wrong_types_are_told(tables, words):
    assert words in complaint(**tables)


def test_whole_numbers_may_stand_for_fractions():
    recipe = EMPTY.overridden({"statistics": {"smoothing_fwhm_mm": 6}})
    assert recipe.statistics.smoothing_fwhm_mm == 6.0
    assert isinstance(recipe.statistics.smoothing_fwhm_mm, float)


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"input": {"modality": "T2w"}}, ["[input] modality = 'T2w'", "T1w"]),
        ({"preprocessing": {"registration": "non-linear"}}, ["did you mean 'nonlinear'?"]),
        ({"preprocessing": {"grid": "1.5mm"}}, ["[preprocessing] grid", "1mm"]),
        ({"preprocessing": {"brain_extraction": "bet"}}, ["did you mean", "deepbet, robex"]),
        ({"preprocessing": {"denoise": "nlmeans"}}, ["denoise = 'nlmeans'", "none, nlm"]),
        ({"preprocessing": {"intensity": "z"}}, ["choose one of: max, minmax, percentile, zscore"]),
        ({"preprocessing": {"resolution_mm": 0.0}}, ["resolution_mm = 0", "from 0.5 to 6"]),
        (
            {"cohort": {"sessions": {"positive": {"test": "all"}}}},
            ["[cohort.sessions.positive] test = 'all'", "first, last"],
        ),
        (
            {"cohort": {"sessions": {"negative": {"train": "frist"}}}},
            ["[cohort.sessions.negative] train", "did you mean 'first'?"],
        ),
        ({"cohort": {"exclude": {"negative": {"dx": []}}}}, ["[cohort.exclude] negative: dx"]),
        ({"cohort": {"exclude": {"everybody": {"dx": [[1]]}}}}, ["exclude] everybody: dx"]),
        ({"training": {"runs": 0}}, ["[training] runs = 0", "1 or more"]),
        ({"training": {"test_people": -1}}, ["[training] test_people = -1"]),
        ({"training": {"validation_people": -1}}, ["[training] validation_people = -1"]),
        ({"training": {"stratify": ["age:five"]}}, ["[training] stratify: 'age:five'", "'age:5'"]),
        ({"training": {"stratify": ["age:0"]}}, ["[training] stratify: 'age:0'"]),
        ({"training": {"stratify": [":5"]}}, ["[training] stratify: ':5'"]),
        ({"training": {"balance": {"within": ["age:5"]}}}, ["[training.balance] within", "column"]),
        ({"training": {"balance": {"column": "sex:-1"}}}, ["[training.balance]: 'sex:-1'"]),
        ({"training": {"split": "k-fold"}}, ["did you mean 'kfold'?"]),
        ({"training": {"folds": 1}}, ["[training] folds = 1", "2 or more"]),
        ({"training": {"repeats": 0}}, ["[training] repeats = 0"]),
        ({"training": {"validation_share": 1.0}}, ["validation_share = 1", "from 0 to 0.9"]),
        ({"training": {"test_share": 0.0}}, ["test_share = 0"]),
        ({"training": {"protocol": {"epochs": 0}}}, ["epochs = 0", "1 or more"]),
        ({"training": {"protocol": {"batch_size": 0}}}, ["batch_size = 0"]),
        ({"training": {"protocol": {"select": "best"}}}, ["select", "best", "last"]),
        ({"regions": {"volumes": {"Hippocampus": 3}}}, ["Hippocampus = 3", "or be 'jacobian'"]),
        (
            {
                "preprocessing": {"registration": "linear"},
                "regions": {"volumes": {"Hippocampus": "jacobian"}},
            },
            ["[regions] volumes", "needs [preprocessing] registration = 'nonlinear'"],
        ),
        (
            {"input": {"modality": "FLAIR"}, "regions": {"volumes": {"Hippocampus": "jacobian"}}},
            ["'jacobian' is for T1w images, not for FLAIR"],
        ),
        ({"statistics": {"permutations": 0}}, ["permutations = 0"]),
        ({"statistics": {"alpha": 5.0}}, ["alpha = 5"]),
        ({"statistics": {"smoothing_fwhm_mm": -1.0}}, ["smoothing_fwhm_mm = -1"]),
        ({"statistics": {"maps": ["saliency"]}}, ["[statistics] maps", "saliency", "image"]),
        ({"statistics": {"corrections": ["tcfe"]}}, ["corrections", "did you mean 'tfce'?"]),
        ({"statistics": {"corrections": []}}, ["corrections: name at least one"]),
        ({"statistics": {"corrections": ["fdr", "fdr"]}}, ["corrections", "each once"]),
        ({"statistics": {"cluster_p": 0.5}}, ["cluster_p = 0.5"]),
        ({"statistics": {"memory_mb": -1.0}}, ["memory_mb = -1"]),
        ({"statistics": {"terms": ["age"]}}, ["[statistics] terms", "contrast"]),
        ({"statistics": {"contrast": "*"}}, ["no letter or digit"]),
        ({"statistics": {"categorical": ["site"]}}, ["categorical = 'site'"]),
        (
            {"statistics": {"variance_groups": True, "corrections": ["voxel", "fdr"]}},
            ["variance_groups", "fdr"],
        ),
        (
            {"statistics": {"exchange_whole": "family", "corrections": ["fdr", "random_field"]}},
            ["exchange_whole", "fdr and random_field", "independent"],
        ),
        (
            {"statistics": {"exchange_within": "site", "variance_groups": True}},
            ["exchange_within", "signs are flipped"],
        ),
        (
            {"statistics": {"corrections": ["random_field"], "alpha": 0.4}},
            ["alpha with random_field = 0.4"],
        ),
        ({"attribution": [{"method": "grad"}]}, ["no attribution 'grad'", "saliency"]),
        ({"attribution": [{}]}, ["no attribution ''"]),
        (
            {"attribution": [{"method": "lrp_epsilon", "eps": 1}]},
            ["lrp_epsilon has no parameter 'eps'", "epsilon"],
        ),
        (
            {"attribution": [{"method": "saliency", "name": "my-map"}]},
            ["name 'my-map'", "letters and digits only"],
        ),
        (
            {"attribution": [{"method": "saliency"}, {"method": "saliency"}]},
            ["two [[attribution]] are called 'saliency'"],
        ),
    ],
)
def test_values_that_cannot_be_are_told_before_anything_runs(tables, words):
    said = complaint(**tables)
    for word in words:
        assert word in said


def test_limits_themselves_are_allowed():
    Training(folds=2, repeats=1, validation_share=0.0)
    Preprocessing(resolution_mm=0.5)
    Cohort(sessions=Sessions(Uses("all", "last"), Uses("last", "first")))
    assert column_and_bin("", "age:0.5") == ("age", 0.5)
    assert column_and_bin("", "site") == ("site", None)


# --- overriding ----------------------------------------------------------------------------------


def test_overriding_goes_key_by_key_and_leaves_the_rest():
    recipe = load_recipe("demo-t1w")
    changed = recipe.overridden({"training": {"protocol": {"epochs": 3}}})
    assert changed.training.protocol == replace(recipe.training.protocol, epochs=3)
    assert changed.training.folds == recipe.training.folds
    assert changed.cohort == recipe.cohort
    assert recipe.training.protocol.epochs != 3


def test_another_network_does_not_inherit_the_old_ones_options():
    changed = load_recipe("ad-t1w").overridden({"network": {"name": "demo"}})
    assert changed.network == {"name": "demo"}


def test_files_that_a_recipe_names_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/models/model-a").mkdir(parents=True)
    recipe = tmp_path / "mine/r.toml"
    text = '[network]\nfile = "net.py"\n[training.transfer]\nmodel = "{}"\nfold = {}\n'
    recipe.write_text(text.format("models/model-a", 3))
    read = load_recipe("mine/r.toml")
    assert read.network == {"file": str(tmp_path / "mine/net.py")}
    assert read.training.transfer.model == str(tmp_path / "mine/models/model-a")
    assert read.training.transfer.fold == 3
    assert read.overridden({}) == read
    recipe.write_text(text.format("adt1w", '"best"'))
    assert load_recipe("mine/r.toml").training.transfer.model == "adt1w"  # a name stays a name


@pytest.mark.parametrize(
    "network", [{}, {"name": "demo", "file": "net.py"}, {"file": "net.py", "sha256": "0"}]
)
def test_a_network_is_a_name_or_a_file(network):
    with pytest.raises(InputError, match=r"\[network\]"):
        EMPTY.overridden({"network": network})


def test_lists_are_replaced_not_joined():
    changed = load_recipe("demo-t1w").overridden(
        {"attribution": [{"method": "saliency"}], "statistics": {"maps": ["image"]}}
    )
    assert [one["name"] for one in changed.attribution] == ["saliency"]


def test_settings_cannot_be_changed_on_the_way():
    for kind in (Settings, Recipe, Cohort, Training, Preprocessing):
        assert kind.__dataclass_params__.frozen
        assert fields(kind)


def test_regions_cannot_be_blanked_where_no_atlas_fits():
    mask = {"mask": {"regions": ["Putamen"]}}
    assert EMPTY.overridden({"preprocessing": mask}).preprocessing.mask.regions == ("Putamen",)
    assert "[preprocessing.mask]" in complaint(preprocessing=mask | {"registration": "none"})


@pytest.mark.parametrize("contrast", ["AD - CN", ("age", "sex"), ""])
def test_a_contrast_is_a_text_or_a_list(contrast):
    listed = list(contrast) if isinstance(contrast, tuple) else contrast
    terms = ["diagnosis", "age", "sex"] if contrast else []
    recipe = EMPTY.overridden({"statistics": {"contrast": listed, "terms": terms}})
    assert recipe.statistics.contrast == contrast
    assert recipe.overridden({}).statistics == recipe.statistics


def test_the_threshold_of_the_paper_is_a_recipe(tmp_path):
    """The snippet of docs/recipes.md is what this app takes."""
    page = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
    snippets = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(snippets) > 2
    read = []
    for k, snippet in enumerate(snippets):
        (tmp_path / f"{k}.toml").write_text(snippet)
        whole = load_recipe(str(tmp_path / f"{k}.toml"))
        if "file" not in whole.network:
            network = new_network(whole.network, GRIDS["2mm"])
            adam(network, whole.training.protocol)  # its layers are there
        read.append(whole.statistics)
    assert (read[0].alpha, read[0].min_cluster_mm3, read[0].smoothing_fwhm_mm) == (0.01, 256, 8)
    assert read[0].corrections[0] == "random_field"
    assert read[1].contrast == "AD:age - CN:age"
    shipped = load_recipe("t1w-vba")
    assert replace(shipped.statistics, maps=("image",)) == replace(
        read[0], corrections=("random_field", "voxel", "tfce")
    )
    generic = load_recipe("t1w")
    assert shipped.network == generic.network
    assert shipped.training == generic.training


# --- baselines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"names": ["svm_voxel"]}, "did you mean 'svm_voxels'"),
        ({"names": ["mask", "mask"]}, "each baseline once"),
        ({"c": []}, "[baselines] c: give at least one"),
        ({"gamma": [1.0, 0.0]}, "[baselines] gamma = 0: must be"),
        ({"pca": -1}, "[baselines] pca"),
        ({"inner_folds": 1}, "[baselines] inner_folds = 1: must be 2 or more"),
        ({"C": [1.0]}, "unknown key [baselines] C"),
    ],
)
def test_baselines_are_checked(table, words):
    assert words in complaint(baselines=table)


def test_whole_numbers_are_fine_for_the_search():
    assert EMPTY.overridden({"baselines": {"c": [1, 10]}}).baselines.c == (1.0, 10.0)


# --- harmonisation -------------------------------------------------------------------------------


def test_nothing_is_harmonised_unless_it_is_asked_for():
    assert not EMPTY.harmonisation.wanted
    assert not EMPTY.overridden({"cohort": {"site": "centre"}}).harmonisation.wanted


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({}, "say by [cohort] site"),
        ({"cohort": {"site": "centre"}, "harmonisation": {"method": "combt"}}, "mean 'combat'"),
        (
            {"cohort": {"site": "centre"}, "preprocessing": {"registration": "none"}},
            "images must be registered",
        ),
        (
            {"cohort": {"site": "centre"}, "harmonisation": {"preserve": ["centre"]}},
            "the site is what is taken off",
        ),
        (
            {
                "cohort": {"site": "centre", "target": "diagnosis"},
                "harmonisation": {"preserve": ["age", "diagnosis"]},
            },
            "'diagnosis' is what is predicted",
        ),
    ],
)
def test_harmonisation_that_cannot_be_done_is_refused(tables, words):
    asked = {"method": "combat"} | tables.get("harmonisation", {})
    assert words in complaint(**tables | {"harmonisation": asked})


def test_the_recipes_of_flair_differ_in_what_they_are_for():
    scratch, fine, filled = (
        load_recipe(f"ms-flair{end}").as_dict() for end in ("-scratch", "", "-filled")
    )
    assert fine["training"]["transfer"]["model"] == "msflairsource"
    assert filled["preprocessing"]["lesions"] == "fill"
    for one in (scratch, fine, filled):  # all else is the same
        del one["name"], one["description"], one["training"]["transfer"]
        del one["preprocessing"]["lesions"]
    assert scratch == fine == filled
    source = load_recipe("ms-flair-source")
    assert source.network == load_recipe("ms-flair").network
    assert source.preprocessing.grid == load_recipe("ms-flair").preprocessing.grid


def test_maps_that_are_tested_are_those_that_the_modality_has():
    assert "md" in load_recipe("dwi").statistics.maps
    for modality, name in (("dwi", "image"), ("T1w", "md")):
        with pytest.raises(InputError, match=rf"\[statistics\] maps.*{name}"):
            load_recipe("t1w").overridden(
                {"input": {"modality": modality}, "statistics": {"maps": [name]}}
            )


def test_tensors_may_stay_in_the_space_of_the_t1w_image():
    changes = {"preprocessing": {"registration": "none"}}
    assert load_recipe("dwi").overridden(changes).preprocessing.registration == "none"
    with pytest.raises(InputError, match="is for T1w and dwi, not for FLAIR"):
        load_recipe("flair").overridden(changes)
