"""Rules of the house that no other tool checks; `test_imports.py` holds those of imports."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.modules import CODE, FOLDERS, ROOT, imported, tree_of

NOT_IMPORTED = {
    "accelerate",  # transformers' Trainer runs on it
    "pandas",  # tables are read as its frames
}


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
        for top in used.keys() - sys.stdlib_module_names - set(FOLDERS)
    }
    undeclared = {
        top: used[top] for top, names in theirs.items() if not names & (needed | optional)
    }
    assert undeclared == {}
    assert needed - set().union(*theirs.values()) == NOT_IMPORTED


def borrowed(path):
    """Attributes of packages that a file uses, `pyarrow.compute`, without importing them by name."""
    tree = tree_of(path)
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


def test_every_module_opens_with_what_it_is_for():
    assert [str(path) for path in CODE if not ast.get_docstring(tree_of(path))] == []


def test_the_index_of_pages_names_each_page_once():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    named = re.findall(r"(?m)^\| \[([\w.-]+)\]\(\1\) \|", index)
    assert sorted(named) == sorted(pages | {"architecture.md"})


def test_what_contributors_are_told_to_run_is_there():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
    assert set(re.findall(r"`make ([\w-]+)", page)) <= set(targets)
    modules = re.findall(r"\b((?:benchmarks|tests)(?:\.\w+)+)", page)
    paths = re.findall(r"`([\w.-]+/[\w./-]*)`", page)
    assert len(modules) > 3
    assert len(paths) > 8
    lost = [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").is_file()]
    lost += [path for path in paths if not (ROOT / path).exists()]
    assert lost == []
