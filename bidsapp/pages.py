"""What a run writes to be read: the pages of people and of the group, the methods text."""

from collections.abc import Sequence
from pathlib import Path

from bidsapp.diary import Diary, tell
from bidsapp.settings import Settings
from pipelines.derivatives import write_text


def write_methods(settings: Settings, diary: Diary) -> bool:
    """Write the methods text of the recipe into logs/CITATION.md."""
    from bidsapp.report.methods import methods_text

    target = settings.output_dir / "logs/CITATION.md"
    write_text(target, str(methods_text(settings.recipe.as_dict(), diary.versions)))
    if settings.boilerplate_only:
        tell(f"methods text written to {target}")
    return False


def write_participant_pages(output_dir: Path, people: Sequence[str]) -> None:
    """Write the page of each of these people (labels without ``sub-``)."""
    from bidsapp.report import participant_page

    for person in people:
        participant_page(output_dir, person)
    pages = [output_dir / f"sub-{person}.html" for person in people]
    tell(f"{len(pages)} participant pages, such as {pages[0]}")


def write_group_pages(output_dir: Path, name: str) -> None:
    """Write the pages of everybody and the report of the model of this name."""
    from bidsapp.report import group_page, participant_page

    for folder in sorted(output_dir.glob("sub-*/")):
        participant_page(output_dir, folder.name.removeprefix("sub-"))
    tell(f"the group report is {group_page(output_dir, name)}")
