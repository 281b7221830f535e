"""``python -m bidsapp.demo``."""

import sys

from bidsapp.demo.cli import main

sys.exit(main())
