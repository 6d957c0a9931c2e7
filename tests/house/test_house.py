"""Rules of the house that no other tool checks."""

import ast
import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jobs.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "schemas": {"schemas"},
    "sources": {"sources", "schemas"},
    "actors": {"actors", "schemas"},
    "jobs": {"jobs", "actors", "sources", "schemas"},
}
NOT_IMPORTED = {
    "accelerate",  # transformers' Trainer runs on it
    "pandas",  # tables are read as its frames
}
MOST_LINES = 340  # aim under 250
CODE = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


def imported(path):
    """Full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module)
    return names


def importers_of(package):
    tops = {path: {name.split(".")[0] for name in imported(path)} for path in CODE}
    return {str(path.relative_to(ROOT)) for path, names in tops.items() if package in names}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_go_one_way(folder):
    ours = {"tests", "benchmarks", *MAY_IMPORT}
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in CODE
        if path.is_relative_to(ROOT / folder)
        for name in imported(path)
        if name.split(".")[0] in ours - MAY_IMPORT[folder]
    }
    assert wrong == set()


def test_only_jobs_import_ray():
    assert {path.split("/")[0] for path in importers_of("ray")} == {"jobs"}


def test_only_the_store_and_its_places_import_deltalake():
    assert importers_of("deltalake") == {"schemas/delta/places.py", "schemas/delta/store.py"}


def test_cores_are_counted_where_quotas_are_known():
    counting = ("os.cpu_count", "os.process_cpu_count", "sched_getaffinity", "multiprocessing")
    assert [path for path in CODE if any(word in path.read_text() for word in counting)] == []


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {canonicalize_name(Requirement(name).name) for name in project["dependencies"]}
    optional = {
        canonicalize_name(Requirement(name).name)
        for names in project["optional-dependencies"].values()
        for name in names
    }
    packages = importlib.metadata.packages_distributions()
    used = {name.split(".")[0]: path for path in CODE for name in imported(path)}
    theirs = {
        top: {canonicalize_name(name) for name in packages.get(top, [top])}
        for top in used.keys() - sys.stdlib_module_names - MAY_IMPORT.keys()
    }
    undeclared = {
        top: used[top] for top, names in theirs.items() if not names & (needed | optional)
    }
    assert undeclared == {}
    assert needed - set().union(*theirs.values()) == NOT_IMPORTED


def borrowed(path):
    """Attributes of packages that a file uses, `pyarrow.compute`, without importing them by name."""
    tree = ast.parse(path.read_text())
    packages = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname or "." not in alias.name
    }
    used = {
        f"{packages[node.value.id]}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in packages
    }
    return used - imported(path)


def test_a_module_that_is_used_is_imported_where_it_is_used():
    """Else it is there only as long as some other file imports it."""
    quick = {*sys.stdlib_module_names, "pyarrow", "ray"}  # the others' modules come with them
    used = {name: path for path in CODE for name in borrowed(path) if name.split(".")[0] in quick}
    look = """if True:
    import importlib, json, sys
    for name in json.load(sys.stdin):
        package, _, attribute = name.rpartition(".")
        if not hasattr(importlib.import_module(package), attribute):
            print(name)
    """
    asked = json.dumps(sorted(used))
    told = subprocess.run([sys.executable, "-c", look], input=asked, capture_output=True, text=True)
    assert {name: used[name] for name in told.stdout.split()} == {}, told.stderr


def test_no_file_holds_two_ideas():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in [*CODE, *(ROOT / "benchmarks").rglob("*.py")]
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_every_command_is_a_module_and_every_module_with_a_main_is_a_command():
    runnable = {
        path.stem.replace("_", "-")
        for path in (ROOT / "jobs").glob("*.py")
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "main"
            for node in ast.parse(path.read_text()).body
        )
    }
    assert runnable - {"cli"} == set(COMMANDS)


def test_every_module_opens_with_what_it_is_for():
    assert [str(path) for path in CODE if not ast.get_docstring(ast.parse(path.read_text()))] == []
