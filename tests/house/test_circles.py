import ast
import graphlib

from tests.house.test_house import CODE, ROOT


def names_of(node):
    """Full names that an import may mean: of modules, or of what is in them."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    return {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}


def test_no_modules_import_each_other_in_a_circle():
    """Not even inside functions, where Python would let them."""
    names = {
        path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in CODE
    }
    graph = {
        name: {
            imported
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for imported in names_of(node) & set(names.values())
        }
        for path, name in names.items()
    }
    assert "actors.files.fasttext" in graph["actors.files.vocabulary"]
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(CODE)
