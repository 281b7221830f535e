"""Interface of the harmonisation: the maps of one fold."""

import logging
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from pipelines.interfaces.networks import read_cohort, rows_of

log = logging.getLogger("brainwhy.training")


class HarmoniseFoldInputSpec(BaseInterfaceInputSpec):
    cache = traits.Str(mandatory=True)
    content_hash = traits.Str(mandatory=True)
    cohort = File(exists=True, mandatory=True)
    split = traits.Dict(mandatory=True, desc="repeat, fold, number, roles")
    site = traits.Str(mandatory=True, desc="column of the cohort")
    options = traits.Dict(mandatory=True, desc="of HarmonisationOptions")
    model = traits.Str(mandatory=True, desc="label of the model")


class HarmoniseFoldOutputSpec(TraitedSpec):
    maps = File(exists=True, desc="factor and shift of every site")
    products = traits.Dict


class HarmoniseFold(SimpleInterface):
    """Learn from a fold's training people what the sites add to their images."""

    input_spec = HarmoniseFoldInputSpec
    output_spec = HarmoniseFoldOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from models.harmonisation import Design, fit
        from models.training.splits import Split
        from models.volumes import open_cache
        from pipelines.harmonisation import coded, coding, site_names, write_maps
        from pipelines.stored_models import model_file

        given, split = self.inputs, Split(**self.inputs.split)
        cohort, cache = read_cohort(given.cohort), open_cache(Path(given.cache))
        rows = rows_of(cohort, split.people("train"), "train")
        mine = cohort.iloc[rows]
        code = coding(mine, given.options["preserve"])
        design = Design(
            site_names(mine[given.site]),
            coded(mine, code),
            [" ".join(filter(None, (one["name"], one.get("word")))) for one in code],
            mine["positive"].to_numpy(bool) if given.options["use_labels"] else None,
        )
        combat, notes = fit(cache.volumes, design, rows=rows)
        for sentence in notes:
            log.warning("fold %d: %s", split.number, sentence)
        path = model_file(given.model, "harmonisation", ".safetensors", split.number)
        target = Path(runtime.cwd) / Path(path).name
        write_maps(target, combat, given.site, code, notes)
        self._results["maps"] = str(target)
        self._results["products"] = {path: {"file": str(target), "sidecar": None}}
        return runtime
