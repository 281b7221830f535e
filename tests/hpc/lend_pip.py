"""Lend this machine's pip settings to an image build.

usage: lend_pip.py FOLDER MOUNTPOINT

Fills FOLDER, which the build sees at MOUNTPOINT, with a pip.conf, the certificates that pip
trusts, and the local folders that pip looks into. Nothing of it enters the image.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

LENT = ("index-url", "extra-index-url", "find-links", "trusted-host", "default-timeout", "timeout")
WHERE_FROM = ("global.", "install.", ":env:.")  # weakest first, as pip reads them


def main(folder: Path, mount_point: Path) -> None:
    """Write the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["[global]"]
    for name, value in pip_settings().items():
        words = [lend(word, folder, mount_point) for word in value.split()]
        if any(words):
            lines.append(f"{name} = {' '.join(filter(None, words))}")
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if certificates:
        shutil.copyfile(certificates, folder / "certificates.crt")
        lines.append(f"cert = {mount_point / 'certificates.crt'}")
    (folder / "pip.conf").write_text("\n".join(lines) + "\n")


def pip_settings() -> dict[str, str]:
    """Return the settings in force, files and environment variables together."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for where in WHERE_FROM:
        for line in listing.splitlines():
            name, _, value = line.removeprefix(where).partition("=")
            if line.startswith(where) and name in LENT:
                found[name] = value.strip("'").replace("\\n", " ")
    return found


def lend(word: str, folder: Path, mount_point: Path) -> str:
    """Return the setting as the build sees it; link a local folder in, drop a missing one."""
    url = urlparse(word)
    if url.scheme not in ("", "file") or not url.path.startswith("/"):
        return word
    source = Path(unquote(url.path))
    if not source.is_dir():
        return ""
    # An index keeps its files beside the folder `simple`.
    root = source.parent if source.name == "simple" else source
    target = folder / root.relative_to("/")
    if not target.exists():
        shutil.copytree(root, target, copy_function=link)
    inside = mount_point / source.relative_to("/")
    return inside.as_uri() if url.scheme else str(inside)


def link(source: str, target: str) -> None:
    """Hard-link a file, or copy it to another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
