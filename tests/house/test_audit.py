"""The audit of dependencies, on environments that pip itself filled from archives made here."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.house.audit import ROOT, defects, pinned

PACKAGES = {"alpha": "1.0", "Beta.two": "1!2.0.post1", "torch": "2.13.0+cpu"}
CONSTRAINTS = "alpha==1.0\nbeta-two==1!2.0.post1\n\n# a comment\ntorch==2.13.0\n"
OTHER = "0" * 64


def wheel(folder, name, version, text=""):
    """The smallest archive that pip installs, with a module of this text."""
    stem = f"{name.replace('.', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {
        "module.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, content in files.items():
            archive.writestr(inner, content)
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def install(environment, *wheels):
    """As `make setup` does, but from files in place of an index."""
    report = environment / f"installed-{len(list(environment.glob('*.json')))}.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--upgrade"]
    site = ["--target", environment / "lib" / "python3.11" / "site-packages"]
    subprocess.run([*command, *site, "--report", report, *wheels], check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with an environment of three packages, and the lock of these."""
    folder = tmp_path_factory.mktemp("audit")
    alpha, beta, torch = (wheel(folder, *package) for package in PACKAGES.items())
    (folder / "environment").mkdir()
    install(folder / "environment", alpha, beta, torch)
    lock = (
        f"# a comment\nalpha==1.0 \\\n    --hash=sha256:{OTHER} \\\n"
        f"    --hash=sha256:{sha256(alpha)}\n"
        f"beta-two==1!2.0.post1 \\\n    --hash=sha256:{sha256(beta)}\n"
        f"torch==2.13.0 \\\n    --hash=sha256:{OTHER}\n"
    )
    return folder, lock


@pytest.fixture
def environment(made, tmp_path):
    return shutil.copytree(made[0] / "environment", tmp_path / "environment")


def test_an_environment_of_locked_archives_has_no_defect(made, environment):
    assert defects(environment, CONSTRAINTS, made[1]) == []


def test_a_changed_archive_of_the_same_version_is_found(made, environment, tmp_path):
    changed = wheel(tmp_path, "alpha", "1.0", text="import os\n")
    install(environment, changed)
    assert defects(environment, CONSTRAINTS, made[1]) == [
        f"alpha 1.0 has sha256 {sha256(changed)}, which the lock has not"
    ]


def test_a_changed_hash_in_the_lock_is_found(made, environment):
    digest = sha256(made[0] / "alpha-1.0-py3-none-any.whl")
    assert defects(environment, CONSTRAINTS, made[1].replace(digest, "f" * 64)) == [
        f"alpha 1.0 has sha256 {digest}, which the lock has not"
    ]


def test_an_unknown_package_is_found(made, environment, tmp_path):
    install(environment, wheel(tmp_path, "gamma", "3.1"))
    assert defects(environment, CONSTRAINTS, made[1]) == [
        "gamma 3.1 is installed, but not in constraints.txt: pin it there"
    ]


@pytest.mark.parametrize("version", ["1.1", "1.0+local"])
def test_another_version_is_found(made, environment, tmp_path, version):
    shutil.rmtree(next(environment.glob("lib/*/*/alpha-*")))
    install(environment, wheel(tmp_path, "alpha", version))
    assert defects(environment, CONSTRAINTS, made[1]) == [
        f"alpha {version} is installed, constraints.txt has 1.0"
    ]


def test_only_the_hash_of_a_build_for_a_device_may_differ_not_its_version(made, environment):
    pins = [text.replace("torch==2.13.0", "torch==2.14.0") for text in (CONSTRAINTS, made[1])]
    assert defects(environment, *pins) == [
        "torch 2.13.0+cpu is installed, constraints.txt has 2.14.0"
    ]


def test_torch_without_a_label_is_held_to_its_hash(made, environment, tmp_path):
    shutil.rmtree(next(environment.glob("lib/*/*/torch-*")))
    install(environment, wheel(tmp_path, "torch", "2.13.0"))
    (found,) = defects(environment, CONSTRAINTS, made[1])
    assert found.startswith("torch 2.13.0 has sha256 ")


def test_constraints_and_lock_must_name_the_same_versions(made, environment):
    assert defects(environment, CONSTRAINTS + "gamma==3.1\n", made[1]) == [
        "gamma: constraints.txt has 3.1, the lock has none: `make lock`"
    ]
    assert defects(environment, CONSTRAINTS, made[1] + f"gamma==3.1 --hash=sha256:{OTHER}\n") == [
        "gamma: constraints.txt has none, the lock has 3.1: `make lock`"
    ]
    assert defects(environment, CONSTRAINTS, made[1].replace("alpha==1.0", "alpha==0.9"))[0] == (
        "alpha: constraints.txt has 1.0, the lock has 0.9: `make lock`"
    )


def test_an_installed_package_that_the_lock_lacks_is_found(made, environment):
    lock = made[1][made[1].index("beta-two") :]
    assert defects(environment, CONSTRAINTS, lock) == [
        "alpha: constraints.txt has 1.0, the lock has none: `make lock`"
    ]


def test_a_package_without_a_report_is_found(made, environment, tmp_path):
    install(environment, wheel(tmp_path, "gamma", "3.1"))
    (environment / "installed-1.json").unlink()
    texts = CONSTRAINTS + "gamma==3.1\n", made[1] + f"gamma==3.1 --hash=sha256:{OTHER}\n"
    assert defects(environment, *texts) == [
        "gamma 3.1 was not installed by `make setup`: its hash is unknown"
    ]


def test_reports_of_old_pip_are_read(made, environment):
    path = environment / "installed-0.json"
    report = json.loads(path.read_text())
    for item in report["install"]:
        archive = item["download_info"]["archive_info"]
        archive["hash"] = f"sha256={archive.pop('hashes')['sha256']}"
    path.write_text(json.dumps(report))
    assert defects(environment, CONSTRAINTS, made[1]) == []
    assert len(defects(environment, CONSTRAINTS, made[1].replace("sha256:", "sha256:0"))) == 2


def test_an_environment_without_reports_fails_and_is_told_the_way_out(tmp_path):
    command = [sys.executable, "-m", "tests.house.audit", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "has no installed-*.json of pip: remove it and run `make setup`" in done.stderr


def test_the_lock_of_this_repository_has_a_hash_for_each_constraint_and_names_no_host():
    lock = (ROOT / "constraints.lock").read_text()
    pins, locks = pinned((ROOT / "constraints.txt").read_text()), pinned(lock)
    assert {name: pin[0] for name, pin in pins.items()} == {n: pin[0] for n, pin in locks.items()}
    assert all(len(digest) == 64 for _, digests in locks.values() for digest in digests)
    assert [name for name, (_, digests) in locks.items() if not digests] == []
    assert "/" not in lock
