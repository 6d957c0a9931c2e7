"""Whether an environment holds what constraints.lock says, told by the hashes of its archives.

For each run of `make setup`, pip leaves a report in the environment with the sha256 of every archive
that it installed. `make check` compares the reports with the committed lock; this needs no network
and takes a second:

    python -m tests.house.audit .venv
"""

import json
import sys
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
NOT_PINNED = {"embatch", "pip"}  # this repository, and what Python itself puts there
# PyTorch has an index for each kind of device. Its builds there have a label that no file of the
# common index may have, as in 2.13.0+cpu, so the lock cannot hold their hashes; their version counts.
BUILT_FOR_A_DEVICE = {"torch"}


def pinned(text: str) -> dict[str, tuple[Version, set[str]]]:
    """Version and sha256s of each `name==version`, with or without `--hash=sha256:…` behind it."""
    pins = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            pin, *hashes = line.split()
            name, version = pin.split("==")
            sha256s = {each.removeprefix("--hash=sha256:") for each in hashes}
            pins[canonicalize_name(name)] = Version(version), sha256s
    return pins


def reported(environment: Path) -> dict[tuple[str, Version], str]:
    """The sha256 of each archive by name and version, from all reports; the last of a version counts."""
    archives = {}
    for path in sorted(environment.glob("installed-*.json")):
        for item in json.loads(path.read_text(encoding="utf-8"))["install"]:
            archive = item["download_info"].get("archive_info", {})  # a folder has none
            sha256 = archive.get("hash", "").removeprefix("sha256=")  # pip before 23.0 has no other
            sha256 = archive.get("hashes", {}).get("sha256", sha256)
            name, version = item["metadata"]["name"], item["metadata"]["version"]
            archives[canonicalize_name(name), Version(version)] = sha256
    return archives


def installed(environment: Path) -> dict[str, Version]:
    """Name and version of what lies in the environment, whoever put it there."""
    folders = [str(folder) for folder in environment.glob("lib/python*/site-packages")]
    found = {canonicalize_name(each.name): each.version for each in distributions(path=folders)}
    return {name: Version(found[name]) for name in sorted(found.keys() - NOT_PINNED)}


def defects(environment: Path, constraints: str, lock: str) -> list[str]:
    """A sentence for each way in which environment, constraints and lock differ; none if all agree."""
    pins, locks = pinned(constraints), pinned(lock)
    present, archives = installed(environment), reported(environment)
    if not present or not archives:
        return [f"{environment} has no installed-*.json of pip: remove it and run `make setup`"]
    found = []
    for name in sorted(pins.keys() | locks.keys()):
        ours, theirs = (str(each[name][0]) if name in each else "none" for each in (pins, locks))
        if ours != theirs:
            found.append(f"{name}: constraints.txt has {ours}, the lock has {theirs}: `make lock`")
    for name, version in present.items():
        public = Version(version.public) if name in BUILT_FOR_A_DEVICE else version
        sha256 = archives.get((name, version))
        if name not in pins:
            found.append(f"{name} {version} is installed, but not in constraints.txt: pin it there")
        elif public != pins[name][0]:
            found.append(f"{name} {version} is installed, constraints.txt has {pins[name][0]}")
        elif not sha256:
            found.append(f"{name} {version} was not installed by `make setup`: its hash is unknown")
        elif public == version and name in locks and sha256 not in locks[name][1]:
            found.append(f"{name} {version} has sha256 {sha256}, which the lock has not")
    return found


def main() -> None:
    """Leave with code 1 and a line for each defect, or say how much was found right."""
    environment = Path(sys.argv[1] if len(sys.argv) > 1 else sys.prefix)
    texts = [(ROOT / name).read_text() for name in ("constraints.txt", "constraints.lock")]
    if found := defects(environment, *texts):
        sys.exit("\n".join([*found, f"Defects of the packages: {len(found)}"]))
    sys.stdout.write(f"Success: {len(installed(environment))} packages are those of the lock\n")


if __name__ == "__main__":
    main()
