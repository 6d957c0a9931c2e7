"""Which module may import which: few each, from the ground up, in no circle."""

import ast
import re
from graphlib import TopologicalSorter

import pytest

from jobs.cli import COMMANDS
from tests.house.modules import (
    CODE,
    FOLDERS,
    MODULES,
    ROOT,
    imported,
    project_imports,
    reached,
    strings,
    tree_of,
)

MAY_IMPORT = {
    "schemas": {"schemas"},
    "sources": {"sources", "schemas"},
    "actors": {"actors", "schemas"},
    "jobs": {"jobs", "actors", "sources", "schemas"},
}
# The floors of each folder, from the ground up. A module imports from the floors below its own, and
# on its own floor from its own folder alone. `files/` is a folder, `*` are all files not named here.
FLOORS = {
    "schemas": ["*", "delta/", "tables/"],
    "sources": [
        "rows row_hash class_names opening partitions prepare columns listing",
        "formats/",
        "*",  # the kinds of SOURCE
    ],
    "actors": [
        "models",
        "files/ images/",
        "kernels/",
        "engine/",
        "encoders/",
        "heads/",
        "worker/ *",  # a worker is given its model, it finds none
    ],
    "jobs": [
        "runtime/",
        "sync/ analysis/ training/",
        "word_vectors/",
        "*",  # the commands
        "refreshing/",
        "refresh init doctor",
    ],
}
MOST_IMPORTS = 12
ABOVE_THAT = {"actors.families": 14}  # the literal that names every family and its encoder


def place_of(name):
    """A module's top folder, its number in FLOORS, and the folder in which it lies."""
    parts = MODULES[name].relative_to(ROOT).with_suffix("").parts
    top, folder = parts[0], "/".join(parts[:-1])
    line = f"{parts[1]}/" if len(parts) > 2 else parts[1]
    names = [floor.split() for floor in FLOORS[top]]
    named = [number for number, floor in enumerate(names) if line in floor]
    if not named and not line.endswith("/"):
        named = [number for number, floor in enumerate(names) if "*" in floor]
    assert len(named) == 1, f"{folder}/ stands {len(named)} times in FLOORS: name its floor"
    return top, named[0], folder


def importers_of(package):
    tops = {path: {name.split(".")[0] for name in imported(path)} for path in CODE}
    return {str(path.relative_to(ROOT)) for path, names in tops.items() if package in names}


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_one_way_and_nothing_of_tests_or_benchmarks(folder):
    ours = {"tests", "benchmarks", *FOLDERS}
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in CODE
        if path.is_relative_to(ROOT / folder)
        for name in imported(path)
        if name.split(".")[0] in ours - MAY_IMPORT[folder]
    }
    assert wrong == set()


def test_imports_are_by_full_names():
    relative = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in CODE
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_no_file_of_tests_or_benchmarks_is_run_or_read():
    theirs = re.compile(r"\b(tests|benchmarks)([/.]\w|$)")
    named = {
        str(path.relative_to(ROOT)): list(filter(theirs.match, strings(path))) for path in CODE
    }
    assert {path: found for path, found in named.items() if found} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_go_down_the_floors(folder):
    wrong = []
    for name in MODULES:
        top, floor, home = place_of(name)
        for other in project_imports(MODULES[name]) if top == folder else ():
            other_top, other_floor, other_home = place_of(other)
            beside = other_floor == floor and other_home == home
            if other_top == top and other_floor >= floor and not beside:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_every_floor_is_there():
    for top, floors in FLOORS.items():
        for name in " ".join(floors).replace("*", "").split():
            file = f"{name}.py" if not name.endswith("/") else name
            assert (ROOT / top / file).exists(), f"{top}/{file} stands in FLOORS, but is gone"


def test_no_imports_make_a_circle():
    graph = {name: project_imports(path) for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # an error names the circle


def test_a_module_imports_a_few_of_the_project_alone():
    counts = {name: len(project_imports(path)) for name, path in MODULES.items()}
    bars = {name: ABOVE_THAT.get(name, MOST_IMPORTS) for name in MODULES}
    above = {name: n for name, n in counts.items() if n > bars[name]}
    assert above == {}, f"more than {MOST_IMPORTS}: a module that needs so many does two things"
    stale = {name for name in ABOVE_THAT if counts.get(name, 0) <= MOST_IMPORTS}
    assert stale == set(), "no longer above: take these out of ABOVE_THAT"


def test_a_file_in_jobs_is_a_command_and_a_folder_is_what_commands_share():
    files = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__", "cli"}
    commands = {name.replace("-", "_") for name in COMMANDS}
    assert files == commands
    functions = {
        name: {node.name for node in tree_of(path).body if hasattr(node, "name")}
        for name, path in MODULES.items()
        if name.startswith("jobs.")
    }
    with_main = {name for name, names in functions.items() if "main" in names}
    assert with_main == {f"jobs.{name}" for name in commands | {"cli"}}
    shared = functions.keys() - with_main
    assert shared - reached(with_main) == set(), "no command uses it"


def test_only_jobs_import_ray():
    assert {path.split("/")[0] for path in importers_of("ray")} == {"jobs"}


def test_only_the_store_and_its_places_import_deltalake():
    assert importers_of("deltalake") == {"schemas/delta/places.py", "schemas/delta/store.py"}
