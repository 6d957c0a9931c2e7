"""The project's modules and what each imports, read from their text without running it."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("schemas", "sources", "actors", "jobs")
CODE = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def name_of(path):
    """`jobs.sync.loop` for its file, `jobs.sync` for the folder's __init__.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in CODE}


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(path):
    """Full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
    return names


def project_imports(path):
    """Names of the project's modules that a file imports; a function counts as its module."""
    return imported(path) & MODULES.keys()


@cache
def strings(path):
    """All strings of a file that are no docstrings."""
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    }


def reached(names):
    """Modules that come with some: their folders, what they import, what they name in a string."""
    waiting, found = [*names], set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += {name.rpartition(".")[0]} & MODULES.keys()
            waiting += project_imports(MODULES[name])
            waiting += strings(MODULES[name]) & MODULES.keys()
    return found
