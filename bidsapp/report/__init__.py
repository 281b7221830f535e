"""Report pages: one self-contained HTML file per participant and one for the cohort.

A page is a pure function of the derivatives on disk: it reads tables, sidecars and pictures, and
says what it did not find. Nothing is computed from images here, so that ``--reports-only`` needs
neither torch nor nipype.
"""

from bidsapp.report.group import group_page
from bidsapp.report.methods import Methods, methods_text
from bidsapp.report.participant import participant_page

__all__ = ["Methods", "group_page", "methods_text", "participant_page"]
