"""Reading a derivatives folder for a page: names, tables, sidecars, pictures.

Nothing here raises for a file that is missing or damaged: the page says so instead.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

# Columns of names, whatever they look like: `01`, `true` and `1e-3` stay as they are written.
_TEXTS = (
    *("participant_id", "session_id", "label", "predicted"),
    *("variant", "first", "second"),
)


@dataclass(frozen=True)
class Item:
    """One file and what its name says.

    Attributes
    ----------
    path
        Where it is.
    entities
        The `key-value` pairs of its name, in order.
    suffix
        The last part of the name, `heatmap` say.
    """

    path: Path
    entities: dict[str, str]
    suffix: str

    def __getitem__(self, key: str) -> str:
        """Value of an entity; empty where the name has none."""
        return self.entities.get(key, "")

    def agrees(self, other: "Item", keys: Iterable[str]) -> bool:
        """Whether both names say the same, or nothing, for each of `keys`."""
        return all(self[key] == other[key] for key in keys)


def item(path: Path) -> Item:
    """Take a file name apart."""
    *parts, suffix = path.name.split(".")[0].split("_")
    pairs = (part.partition("-") for part in [*parts, suffix] if "-" in part)
    entities = {key: value for key, _, value in pairs}
    return Item(path, entities, "" if "-" in suffix else suffix)


@dataclass(frozen=True)
class Picture:
    """An image ready to be embedded: a `mosaic` of slices or a `chart`."""

    uri: str
    width: int
    height: int
    alt: str
    caption: str = ""
    kind: str = "mosaic"


@dataclass
class Shelf:
    """A derivatives folder, and what could not be read from it so far.

    Attributes
    ----------
    root
        The output folder.
    troubles
        Sentences, one per damaged file.
    """

    root: Path
    troubles: list[str] = field(default_factory=list)

    def find(self, pattern: str) -> list[Item]:
        """Files below the root that match a glob pattern, by name."""
        return [item(path) for path in sorted(self.root.glob(pattern)) if path.is_file()]

    def table(self, path: Path) -> pd.DataFrame:
        """Rows of a TSV file; an empty table where there is none or it is damaged."""
        if not path.is_file():
            return pd.DataFrame()
        try:
            return pd.read_csv(
                path,
                sep="\t",
                keep_default_na=False,
                na_values=["n/a", ""],
                dtype=dict.fromkeys(_TEXTS, str),
            )
        except (ValueError, OSError) as error:
            self._trouble(path, error)
            return pd.DataFrame()

    def json(self, path: Path) -> dict[str, Any]:
        """Content of a JSON file; empty where there is none or it is damaged."""
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            self._trouble(path, error)
            return {}
        return content if isinstance(content, dict) else {}

    def sidecar(self, of: Item) -> dict[str, Any]:
        """Metadata beside a file."""
        return self.json(of.path.with_name(of.path.name.split(".")[0] + ".json"))

    def picture(
        self, of: Item, alt: str, caption: str = "", kind: str = "mosaic"
    ) -> Picture | None:
        """Embed a PNG file; None where it cannot be read."""
        try:
            content = of.path.read_bytes()
        except OSError as error:
            self._trouble(of.path, error)
            return None
        if content[:8] != b"\x89PNG\r\n\x1a\n":
            self._trouble(of.path, ValueError("not a PNG file"))
            return None
        width, height = (int.from_bytes(content[k : k + 4], "big") for k in (16, 20))
        uri = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
        return Picture(uri, width, height, alt, caption, kind)

    def log(self, name: str) -> dict[str, Any]:
        """Record of a run: `participant-<label>` or `group`."""
        return self.json(self.root / "logs" / f"{name}.json")

    def name(self, path: Path) -> str:
        """Path as the reader knows it: relative to the folder."""
        return path.relative_to(self.root).as_posix()

    def _trouble(self, path: Path, error: Exception) -> None:
        sentence = f"{self.name(path)} could not be read: {error}"
        if sentence not in self.troubles:
            self.troubles.append(sentence)
