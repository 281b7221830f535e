"""Voxelwise statistics beside nilearn: see voxelwise.py.

python benchmarks/statistics.py [--quick] [--json FILE]
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

if __name__ == "__main__":
    from voxelwise import main

    main()
else:
    # The folder of a script comes first in its path. A library that imports the standard
    # library's module of this name ends here, and is given that one.
    here = Path(__file__).resolve().parent
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    spec = PathFinder.find_spec(__name__, elsewhere)
    module = sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(module)
