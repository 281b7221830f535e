"""The simulated people of the demos of heads: who they are, where they are scanned."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PATIENT, CONTROL = "AD", "CN"
# Sites differ in noise, receive field and gain (models.phantom.Scanner) and in their sidecars.
SITES: dict[str, dict[str, Any]] = {
    "north": {
        "scanner": {"noise": 0.02, "bias": 0.14, "gain": 8.0},
        "sidecar": {"MagneticFieldStrength": 3, "Manufacturer": "Simulated", "StationName": "N"},
    },
    "south": {
        "scanner": {"noise": 0.03, "bias": 0.08, "gain": 5.0},
        "sidecar": {"MagneticFieldStrength": 1.5, "Manufacturer": "Simulated", "StationName": "S"},
    },
}
STORAGE = ("RAS", "LAS", "LPS")
TWICE_SCANNED = (2, 3)  # a patient and a control with ses-1 and ses-2

SEX: dict[str, Any] = {
    "Description": "Sex (changes nothing in the images)",
    "Levels": {"F": "female", "M": "male"},
}
SIDE: dict[str, Any] = {
    "Description": "Side of onset (changes nothing in the images)",
    "Levels": {"L": "left", "R": "right", "n/a": "controls"},
}
SITE: dict[str, Any] = {
    "Description": "Simulated scanner",
    "Levels": {"north": "3 T, less noise", "south": "1.5 T, more noise"},
}


@dataclass(frozen=True)
class Person:
    """One simulated participant; ``index`` settles everything, whatever the cohort's size."""

    index: int
    label: str
    diagnosis: str
    age: int
    sex: str
    side: str
    site: str
    axcodes: str
    sessions: tuple[str, ...]  # labels; ("",) where the dataset has no session level

    @property
    def is_patient(self) -> bool:
        """Whether the true change was made."""
        return self.diagnosis == PATIENT

    def row(self, columns: Iterable[str]) -> dict[str, str]:
        """Return the line of participants.tsv with these columns."""
        named = {name: str(getattr(self, name)) for name in columns}
        return {"participant_id": f"sub-{self.label}", **named}

    def entities(self, session: str) -> dict[str, str]:
        """Return the BIDS entities of an image."""
        return {"sub": self.label, "ses": session}


def person(index: int, seed: int) -> Person:
    """Draw participant ``index``: even indices are patients, odd ones their matched controls.

    The two of a pair share site, sex, storage orientation and (within a year or two) age, so
    that no group difference but the effect can arise, in any even number of people.
    """
    from models.phantom import person_seed, stream

    pair = index // 2
    pair_age = stream(person_seed(seed, 2 * pair), 3).normal(72.0, 7.0)
    jitter = stream(person_seed(seed, index), 4).uniform(-1.5, 1.5)
    patient = index % 2 == 0
    return Person(
        index=index,
        label=f"{index + 1:02d}",
        diagnosis=PATIENT if patient else CONTROL,
        age=round(min(max(pair_age, 55.0), 90.0) + jitter),
        sex="FM"[pair // 2 % 2],
        side="LR"[(pair + pair // 2) % 2] if patient else "n/a",
        site=list(SITES)[pair % 2],
        axcodes=STORAGE[pair % len(STORAGE)],
        sessions=("1", "2") if index in TWICE_SCANNED else ("",),
    )


def acquisition(who: Person) -> dict[str, Any]:
    """Sidecar of a scan of this person, whatever the sequence."""
    return {"Modality": "MR", **SITES[who.site]["sidecar"], "PulseSequenceType": "Simulated"}
