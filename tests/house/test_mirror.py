"""tests/ mirrors the code: who changes a module knows where its tests are.

`sources/formats/text.py` has `tests/sources/formats/test_text.py`. Else a test of the mirrored folder,
or of the folder above it, imports the module or names it, or runs the command that it is. What is
tested only through something larger stands in THROUGH with the test that does it.
"""

import ast

from tests.house.modules import MODULES, ROOT, name_of, project_imports, reached, strings, tree_of

TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
THROUGH = {
    "schemas/cells.py": "jobs/sync/test_json_columns.py",
    "schemas/columns.py": "schemas/tables/test_embeddings.py",
    "schemas/delta/derived.py": "jobs/test_neighbours.py",
    "schemas/delta/places.py": "stores/test_object_store.py",
    "sources/formats/whole.py": "sources/formats/test_text.py",
    "actors/dpr.py": "jobs/test_ask.py",
    "actors/encoders/dpr.py": "actors/encoders/test_transformer.py",
    "actors/encoders/modules.py": "actors/encoders/test_transformer.py",
    "actors/files/fasttext.py": "actors/files/test_vocabulary.py",
    "actors/files/keyed_vectors.py": "actors/files/test_vocabulary.py",
    "actors/heads/classifier.py": "jobs/test_finetune.py",
    "actors/heads/reader.py": "jobs/test_ask.py",
    "actors/kernels/bert_weights.py": "actors/kernels/test_packed.py",
    "jobs/demo.py": "house/test_readme.py",
    "jobs/analysis/nearest_by_faiss.py": "jobs/test_neighbours.py",
    "jobs/analysis/report_page.py": "jobs/test_report.py",
    "jobs/analysis/retrieval.py": "jobs/test_evaluate.py",
    "jobs/analysis/vectors.py": "jobs/test_evaluate.py",
    "jobs/refreshing/history_page.py": "jobs/test_refresh.py",
    "jobs/refreshing/steps.py": "jobs/test_refresh.py",
    "jobs/runtime/signals.py": "jobs/test_embed.py",
    "jobs/sync/dry_run.py": "jobs/test_embed.py",
    "jobs/sync/scan.py": "jobs/test_embed.py",
    "jobs/training/digits_clip.py": "conftest.py",  # makes the model of test_zero_shot.py
    "jobs/training/trainer.py": "jobs/test_finetune.py",
    "jobs/word_vectors/rarity.py": "jobs/word_vectors/test_word_encoder.py",
}


def is_named(name, test):
    """A test imports a module, patches something in it, or runs it as a command."""
    if name in project_imports(test):
        return True
    command = name.removeprefix("jobs.").replace("_", "-")  # one of a folder's has a dot
    return any(
        text in (name, command, f"make {command}") or text.startswith(f"{name}.")
        for text in strings(test)
    )


def beside(name):
    """The tests of the mirrored folder and of the one above."""
    folder = ROOT / "tests" / MODULES[name].parent.relative_to(ROOT)
    return [test for test in TESTS if test.parent in (folder, folder.parent)]


def is_tested_beside(name):
    own = f"test_{MODULES[name].stem}.py"
    return any(test.name == own or is_named(name, test) for test in beside(name))


def holds_code(path):
    return any(not isinstance(node, ast.Expr) for node in tree_of(path).body)


def test_each_module_has_a_test_where_one_looks_for_it():
    lacking = {
        str(path.relative_to(ROOT))
        for name, path in MODULES.items()
        if holds_code(path) and not is_tested_beside(name)
    }
    assert lacking == THROUGH.keys()


def test_what_is_tested_through_something_larger_comes_with_it():
    apart = [
        path
        for path, test in THROUGH.items()
        if name_of(ROOT / path)
        not in reached(name for name in MODULES if is_named(name, ROOT / "tests" / test))
    ]
    assert apart == []
