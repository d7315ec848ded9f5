"""Check what `make dist` has built: `python tests/check_dist.py DIRECTORY`; the exit code is 1 if something is wrong.

The wheel has every module and data file of the packages in setup.cfg, and nothing else; the sdist has every file of
the repository; and the metadata has what a page about the package shows.
"""

import configparser
import email
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Tracked files that only the repository needs.
HIDDEN = (".",)
FIELDS = {
    "Name": "seqblend",
    "License-Expression": "Apache-2.0",
    "Description-Content-Type": "text/markdown",
    "License-File": "LICENSE",
}


def tracked() -> set[str]:
    """The files of the repository, from its root; those that begin with a point are left out."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if not name.startswith(HIDDEN)}


def packaged(files: set[str]) -> set[str]:
    """Those that belong into the wheel: of each package its modules and its data."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    packages = [name.partition(".")[2] for name in settings["options"]["packages"].split()]
    found = set()
    for package in packages:
        data = settings["options.package_data"].get(f"seqblend.{package}" if package else "seqblend", "")
        patterns = ["*.py", *(each.strip() for each in data.split(","))]
        folder = ROOT / package.replace(".", "/")
        found |= {path.relative_to(ROOT).as_posix() for each in patterns if each for path in folder.glob(each)}
    return found & files


def faults(directory: Path) -> list[str]:
    """What is wrong with the wheel and the sdist in a directory, each in a line."""
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    files, said = tracked(), []
    with zipfile.ZipFile(wheel) as opened:
        names = {name.removeprefix("seqblend/") for name in opened.namelist() if name.startswith("seqblend/")}
        (metadata,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        fields = email.message_from_string(opened.read(metadata).decode())
    expected = packaged(files)
    said += [f"{wheel.name}: {name} is missing" for name in sorted(expected - names)]
    said += [f"{wheel.name}: {name} does not belong there" for name in sorted(names - expected)]
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    said += [f"{sdist.name}: {name} is missing" for name in sorted(files - names)]
    said += [f"metadata: {name} is {fields[name]!r}" for name, value in FIELDS.items() if fields[name] != value]
    version = version_of()
    if fields["Version"] != version or f"version: {version}\n" not in (ROOT / "CITATION.cff").read_text():
        said.append(f"version: {version} in version.py, {fields['Version']} in the metadata; see CITATION.cff, too")
    if str(fields.get_payload()).strip() != (ROOT / "README.md").read_text(encoding="utf-8").strip():
        said.append("metadata: the description is not README.md")
    if not fields["Summary"] or not fields["Requires-Python"] or not fields.get_all("Requires-Dist"):
        said.append("metadata: a summary, Requires-Python or Requires-Dist is missing")
    return said


def version_of() -> str:
    """The version in version.py."""
    names: dict[str, str] = {}
    exec((ROOT / "version.py").read_text(), names)
    return names["__version__"]


if __name__ == "__main__":
    found = faults(Path(sys.argv[1]))
    print("\n".join(found) or "wheel, sdist and metadata are complete")
    sys.exit(bool(found))
