"""All attributions against their peers: gradients, relevance, occlusion.

``python benchmarks/attribution.py [--quick] [--json FILE]``; the quick run takes a minute.
"""

import gradient_rows
import occlusion_rows
import relevance_rows
from rows import parser, report

PARTS = (gradient_rows, relevance_rows, occlusion_rows)

if __name__ == "__main__":
    arguments = parser(__doc__).parse_args()
    report([row for part in PARTS for row in part.rows(arguments.quick)], arguments.json)
