"""A plan against a slow oracle in dicts, and against a simulation of the run that follows it."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.keys import KEYS
from schemas.plan import (
    CONFLICT,
    COPY,
    EMBED,
    EMBEDDED,
    KNOWN_CONFLICT,
    KNOWN_EMBED,
    REFUSE,
    REPLACED,
    UPDATED,
    make_plan,
)

# 128-bit hashes that agree in either half, so that a comparison of one half alone is found out.
NOTHING = np.zeros(0, KEYS)
WORDS = [(0, 0), (0, 1), (1, 0), (1, 1), (2**64 - 1, 0), (0, 2**64 - 1)]
COUNTS = ("unchanged", "embedded", "replaced", "updated", "duplicates", "conflicts", "known")


class Row(NamedTuple):
    """A row of a source: small numbers that stand for hashes."""

    id: int
    content: int
    row: int


class Held(NamedTuple):
    """A row of a table; a document of passages is several, one a chunk."""

    id: int
    content: int
    row: int
    chunk: int = 0
    run: int = 0  # in which its vector was computed


def keys_of(pieces, step=1):
    """KEYS of rows in pieces or files; positions are `step` apart."""
    rows = [(i, p * step, row) for i, piece in enumerate(pieces) for p, row in enumerate(piece)]
    keys = np.zeros(len(rows), KEYS)
    for at, (where, position, row) in enumerate(rows):
        keys[at] = (WORDS[row.id], WORDS[row.content], row.row, where, position)
    return keys


def failed_keys(failures):
    """KEYS of known failures, (id, content, stage) each."""
    keys = np.zeros(len(failures), KEYS)
    for at, (id_, content, stage) in enumerate(failures):
        keys[at] = (WORDS[id_], WORDS[content], stage, 0, at)
    return keys


def plan_of(source, stored=(), failed=(), current=None, **options):
    """make_plan on lists of rows: `source` and `stored` are lists of pieces and of files."""
    current = [True] * len(stored) if current is None else current
    return make_plan(
        keys_of(source),
        keys_of(stored),
        failed_keys(failed),
        current_file=np.array(current, bool),
        **options,
    )


def counts_of(plan):
    counts = Counter(COUNTS[fate] for fate in plan.fate.tolist())
    return dict(counts)


def due_of(plan):
    """(file, position): (fate, action, group) of each due row."""
    return {
        (int(d["file"]), int(d["position"])): (
            int(plan.fate[d["at"]]),
            int(d["action"]),
            int(d["group"]),
        )
        for d in plan.due
    }


def drops_of(plan):
    return [(int(d["where"]), int(d["position"])) for d in plan.drops]


# -- strategies -------------------------------------------------------------------------------

numbers = st.integers
three = st.tuples(numbers(0, 4), numbers(0, 3), numbers(0, 1))
source_rows = three.map(lambda row: Row(*row))
sources = st.lists(st.lists(source_rows, max_size=4), max_size=3)
held_rows = three.map(lambda row: Held(*row))
tables = st.lists(st.lists(held_rows, max_size=4), max_size=4)
currents = st.lists(st.sampled_from([True, True, True, False]), min_size=5, max_size=5)
known_failures = st.lists(
    st.tuples(numbers(0, 4), numbers(0, 3), st.sampled_from([KNOWN_EMBED, KNOWN_CONFLICT])),
    max_size=4,
    unique_by=lambda failure: failure[:2],
)


def n_chunks(content):
    """How many passages a text is cut into."""
    return content + 1


def document(row):
    return [row._replace(chunk=chunk) for chunk in range(n_chunks(row.content))]


@st.composite
def tables_of_passages(draw):
    rows = draw(st.lists(held_rows, max_size=5, unique_by=lambda row: row.id))
    files = [[] for _ in range(3)]
    for row in rows:
        files[draw(numbers(0, 2))] += document(row)
    return files


# -- the oracle -------------------------------------------------------------------------------


@dataclass
class Expected:
    """What a plan must say, each row in the words of the table in ARCHITECTURE.md."""

    counts: Counter
    due: dict  # (file, position): (kind, action)
    drops: list
    deferred: int
    deleted: int
    withdrawn: int
    known_failures: set


def expected_plan(source, stored, failed, current, *, passages, prune, defer, unreadable):
    held = defaultdict(list)
    for file, rows in enumerate(stored):
        for position, row in enumerate(rows):
            held[row.id].append((file, position, row))

    def sound(id_):
        """The table's rows of this id say one thing, in files of this recipe."""
        rows = held[id_]
        alike = len({(row.content, row.row) for *_, row in rows}) == 1
        return alike and all(current[file] for file, *_ in rows) and (passages or len(rows) == 1)

    in_table = set()  # contents whose vector can be copied
    for id_, rows in held.items():
        in_table |= {r.content for f, _, r in rows if current[f] and (not passages or sound(id_))}
    failures = {(id_, content): (stage, at) for at, (id_, content, stage) in enumerate(failed)}

    counts, due, dropped_ids, deferred, seen_failures = Counter(), {}, set(), 0, set()
    won, led = {}, set()
    for file, rows in enumerate(source):
        for position, row in enumerate(rows):
            at, (stage, number) = (file, position), failures.get(row[:2], (None, None))
            if row.id in won:
                if won[row.id].content == row.content:
                    counts["duplicates"] += 1
                    continue
                counts["conflicts"] += 1
                if stage == KNOWN_CONFLICT:
                    seen_failures.add(number)
                else:
                    due[at] = (CONFLICT, REFUSE)
                continue
            won[row.id] = row
            twin = held[row.id][0][2] if held[row.id] else None
            if twin and sound(row.id) and twin.content == row.content:
                if twin.row == row.row:
                    counts["unchanged"] += 1
                else:
                    counts["updated"] += 1
                    due[at] = (UPDATED, COPY)
                    dropped_ids.add(row.id)
                continue
            if stage == KNOWN_EMBED:
                counts["known"] += 1
                seen_failures.add(number)
                dropped_ids.add(row.id)
                continue
            counts["replaced" if twin else "embedded"] += 1
            copied = row.content in in_table
            if not copied and row.content in led and defer:
                deferred += 1
                continue
            if not copied:
                led.add(row.content)
            due[at] = (REPLACED if twin else EMBEDDED, COPY if copied else EMBED)
            dropped_ids.add(row.id)
    vanished = {id_ for id_ in held if held[id_] and id_ not in won}
    withdrawn = vanished & set(unreadable)
    gone = vanished - withdrawn if prune else set()
    drops = [(f, p) for id_ in dropped_ids | withdrawn | gone for f, p, _ in held[id_]]
    return Expected(counts, due, sorted(drops), deferred, len(gone), len(withdrawn), seen_failures)


def assert_as_expected(source, stored, failed, current, wave_rows, **options):
    ids = np.array([WORDS[id_] for id_ in options["unreadable"]], np.uint64).reshape(-1, 2)
    named = {**options, "unreadable": ids, "wave_rows": wave_rows}
    plan = plan_of(source, stored, failed, current, **named)
    expected = expected_plan(source, stored, failed, current, **options)
    assert counts_of(plan) == dict(expected.counts)
    assert {at: due[:2] for at, due in due_of(plan).items()} == expected.due
    assert drops_of(plan) == expected.drops
    assert plan.deferred == expected.deferred
    assert (plan.deleted, plan.withdrawn) == (expected.deleted, expected.withdrawn)
    assert set(plan.known[:, 1].tolist()) == expected.known_failures
    assert plan.n_ids_stored == len({row.id for rows in stored for row in rows})
    assert len(plan.fate) == sum(len(rows) for rows in source) == sum(expected.counts.values())
    check_due(plan, source, stored, current, options["passages"])
    check_groups(plan, stored, wave_rows)


def check_due(plan, source, stored, current, passages):
    """Due rows say what the source says, in the order of work, and copy from where they can."""
    order = [(d["group"], d["file"], d["position"]) for d in plan.due]
    assert order == sorted(order)
    for due in plan.due:
        row = source[due["file"]][due["position"]]
        assert (tuple(due["content"].tolist()), due["row"]) == (WORDS[row.content], row.row)
        if due["action"] == COPY:
            file, start, count = due["from_file"], due["from_position"], due["from_count"]
            copied = stored[file][start : start + count]
            chunks = list(range(n_chunks(row.content))) if passages else [0]
            assert [(r.content, r.chunk) for r in copied] == [(row.content, c) for c in chunks]
            assert len({r.id for r in copied}) == 1
            assert current[file]


def check_groups(plan, stored, wave_rows):
    """Groups are 1 to n; each file that loses rows is in one, as is the new row of each old one."""
    groups = plan.group_of_file
    touched = sorted({file for file, _ in drops_of(plan)})
    assert len(groups) == len(stored)
    assert np.flatnonzero(groups).tolist() == touched
    assert sorted(set(groups[touched].tolist())) == list(range(1, plan.n_groups + 1))
    assert (
        plan.n_due_by_group().tolist()
        == np.bincount(plan.due["group"], minlength=plan.n_groups + 1).tolist()
    )
    files_of = defaultdict(set)
    for file, position in drops_of(plan):
        files_of[stored[file][position].id].add(int(groups[file]))
    assert all(len(of_id) == 1 for of_id in files_of.values())
    for due in plan.due:
        assert (due["group"] > 0) == (plan.fate[due["at"]] in (REPLACED, UPDATED))


@settings(max_examples=400)
@given(sources, tables, known_failures, currents, st.sampled_from([1, 2, 50_000]), st.data())
def test_every_row_is_classified_as_the_design_says(s, t, f, current, wave_rows, data):
    flags = {name: data.draw(st.booleans(), name) for name in ("prune", "defer")}
    flags["unreadable"] = data.draw(st.lists(numbers(0, 5), max_size=3), "unreadable")
    assert_as_expected(s, t, f, current[: len(t)], wave_rows, passages=False, **flags)


@settings(max_examples=250)
@given(sources, tables_of_passages(), known_failures, currents, st.integers(1, 3), st.data())
def test_documents_of_passages_are_classified_as_the_design_says(s, t, f, current, wave, data):
    flags = {name: data.draw(st.booleans(), name) for name in ("prune", "defer")}
    flags["unreadable"] = data.draw(st.lists(numbers(0, 5), max_size=3), "unreadable")
    assert_as_expected(s, t, f, current[: len(t)], wave, passages=True, **flags)


@given(sources, tables, st.permutations(range(6)))
def test_only_equality_of_hashes_matters(source, stored, new_words):
    def renamed(row):
        return row._replace(id=new_words[row.id], content=new_words[row.content])

    one = plan_of(source, stored)
    other = plan_of(
        *([[renamed(row) for row in rows] for rows in side] for side in (source, stored))
    )
    assert counts_of(one) == counts_of(other)
    assert due_of(one) == due_of(other)


# -- the run that follows a plan ----------------------------------------------------------------


@dataclass
class Run:
    """A table in lists, changed as workers and waves change the real one; see jobs/sync/commits.py."""

    source: list
    files: list
    current: list
    failures: list
    passages: bool
    poison: set  # contents that the model refuses
    random: Random
    n_embedded: Counter = field(default_factory=Counter)

    def plan(self, **options):
        plan = plan_of(
            self.source, self.files, self.failures, self.current, passages=self.passages, **options
        )
        assert len(plan.fate) == sum(len(rows) for rows in self.source)
        return plan

    def sync(self, *, replace, prune, wave_rows):
        """As `jobs.sync.loop` does: rows that were deferred are planned again until none is.

        To replace is to take no file for current but those that this run has written.
        """
        self.before = self.documents()
        self.first_failures = list(self.failures)
        if replace:
            self.current = [False] * len(self.files)
        plan = self.plan(prune=prune, wave_rows=wave_rows, defer=True)
        for _ in range(3):
            self.apply(plan)
            if not plan.deferred:
                return
            plan = self.plan(prune=prune, wave_rows=wave_rows, defer=False)
        raise AssertionError("rows stay deferred")

    def apply(self, plan):
        """Commit each new row and each group by itself, in any order; look at every state."""
        old = [list(rows) for rows in self.files]
        rest = {file: rows for file, rows in enumerate(old)}
        added = []
        waves = [(0, [due]) for due in plan.due if due["group"] == 0]
        waves += [(g, plan.due[plan.due["group"] == g]) for g in range(1, plan.n_groups + 1)]
        self.random.shuffle(waves)
        for group, due in waves:
            rows = [row for one in due for row in self.work(one, old)]
            for file in np.flatnonzero(plan.group_of_file == group) if group else []:
                gone = {position for f, position in drops_of(plan) if f == file}
                rest[file] = [row for at, row in enumerate(old[file]) if at not in gone]
            if rows:
                added.append(rows)
            self.look([*rest.values(), *added])
        self.files = [*rest.values(), *added]
        self.current = [*self.current, *[True] * len(added)]

    def work(self, due, old):
        row = self.source[due["file"]][due["position"]]
        if due["action"] == REFUSE:
            self.failures.append((row.id, row.content, KNOWN_CONFLICT))
            return []
        if due["action"] == COPY:
            start = due["from_position"]
            copied = old[due["from_file"]][start : start + due["from_count"]]
            assert [r.content for r in copied] == [row.content] * len(copied)
            assert self.current[due["from_file"]]
            return [r._replace(id=row.id, row=row.row) for r in copied]
        if row.content in self.poison:
            self.failures.append((row.id, row.content, KNOWN_EMBED))
            return []
        self.n_embedded[row.content] += 1
        new = Held(row.id, row.content, row.row, run=1)
        return document(new) if self.passages else [new]

    def documents(self, files=None):
        found = defaultdict(list)
        for rows in self.files if files is None else files:
            for row in rows:
                found[row.id].append(row)
        return found

    def whole(self, rows):
        """These rows are one document, once."""
        chunks = range(n_chunks(rows[0].content)) if self.passages else [0]
        return [(r.content, r.chunk) for r in rows] == [(rows[0].content, c) for c in chunks]

    def winners(self):
        won = {}
        for rows in self.source:
            for row in rows:
                won.setdefault(row.id, row)
        return won

    def look(self, files):
        """What a reader may see after any commit."""
        now, won = self.documents(files), self.winners()
        for id_, rows in now.items():
            assert self.whole(rows) or rows == self.before[id_], f"id {id_} is not there once"
        failed = {failure[:2] for failure in self.failures}
        for id_ in self.before.keys() & won.keys():
            assert id_ in now or won[id_][:2] in failed, f"id {id_} is missing"

    def agrees(self, *, replace, prune):
        """The end: the source's winners, and of the rest what was there and may stay."""
        now, won = self.documents(), self.winners()
        at = {id(row): f for f, rows in enumerate(self.files) for row in rows}
        tried = {f[:2] for f in self.first_failures if f[2] == KNOWN_EMBED}
        for id_, winner in won.items():
            if id_ not in now:
                assert winner.content in self.poison or winner[:2] in tried
                assert (id_, winner.content, KNOWN_EMBED) in self.failures
                continue
            assert self.whole(now[id_])
            assert {(r.id, r.content, r.row) for r in now[id_]} == {tuple(winner)}
            assert all(self.current[at[id(row)]] for row in now[id_])
            assert not replace or {row.run for row in now[id_]} == {1}
        others = {id_: rows for id_, rows in self.before.items() if id_ not in won}
        assert {i: r for i, r in now.items() if i not in won} == ({} if prune else others)
        again = self.plan(prune=prune)
        assert (len(again.due), again.deferred, len(again.drops), again.deleted) == (0, 0, 0, 0)
        assert max(self.n_embedded.values(), default=0) <= 1


def simulate(source, stored, failed, current, passages, data, *, replace):
    prune = data.draw(st.booleans(), "prune")
    run = Run(
        source,
        stored,
        current[: len(stored)],
        list(failed),
        passages,
        data.draw(st.sets(numbers(0, 3), max_size=1), "poison"),
        data.draw(st.randoms(use_true_random=False)),
    )
    run.sync(replace=replace, prune=prune, wave_rows=data.draw(st.sampled_from([1, 3, 50_000])))
    run.agrees(replace=replace, prune=prune)


@settings(max_examples=400)
@given(sources, tables, known_failures, currents, st.data())
def test_a_run_ends_in_agreement_and_no_reader_sees_an_id_twice_or_missing(s, t, f, current, data):
    simulate(s, t, f, current, False, data, replace=False)


@settings(max_examples=250)
@given(sources, tables_of_passages(), known_failures, currents, st.data())
def test_a_run_over_passages_ends_in_agreement_and_no_reader_sees_half_a_document(s, t, f, c, data):
    simulate(s, t, f, c, True, data, replace=False)


@settings(max_examples=250)
@given(sources, tables, currents, st.data())
def test_replace_embeds_every_row_anew(source, stored, current, data):
    simulate(source, stored, [], current, False, data, replace=True)


# -- by hand ------------------------------------------------------------------------------------


def test_one_row_of_each_kind():
    source = [
        [Row(0, 0, 0), Row(1, 1, 1), Row(2, 3, 0)],  # unchanged, updated, replaced
        [Row(3, 4, 0), Row(3, 4, 1), Row(3, 0, 0)],  # embedded, duplicate, conflict
    ]
    stored = [[Held(0, 0, 0), Held(1, 1, 0)], [Held(5, 5, 0), Held(2, 2, 0)]]
    plan = plan_of(source, stored, prune=True)
    one_each = ("unchanged", "embedded", "replaced", "updated", "duplicates", "conflicts")
    assert counts_of(plan) == dict.fromkeys(one_each, 1)
    assert (len(plan.fate), plan.deleted, plan.deferred, plan.n_ids_stored) == (6, 1, 0, 4)
    assert due_of(plan) == {
        (0, 1): (UPDATED, COPY, 1),
        (0, 2): (REPLACED, EMBED, 1),
        (1, 0): (EMBEDDED, EMBED, 0),
        (1, 2): (CONFLICT, REFUSE, 0),
    }
    assert drops_of(plan) == [(0, 1), (1, 0), (1, 1)]
    assert plan.group_of_file.tolist() == [1, 1]
    assert plan.n_due_by_group().tolist() == [2, 2]


@pytest.mark.parametrize("prune", [False, True])
def test_a_row_that_cannot_be_read_any_more_leaves_the_table_unless_another_has_its_id(prune):
    stored = [[Held(0, 0, 0), Held(1, 1, 0)], [Held(2, 2, 0)]]
    unreadable = np.array([WORDS[0], WORDS[0], WORDS[2], WORDS[5]], np.uint64)
    plan = plan_of(
        [[Row(1, 1, 0), Row(2, 2, 0)]], stored, unreadable=unreadable, prune=prune, wave_rows=1
    )
    assert counts_of(plan) == {"unchanged": 2}
    assert (plan.withdrawn, plan.deleted, drops_of(plan)) == (1, 0, [(0, 0)])
    assert (plan.group_of_file.tolist(), plan.n_due_by_group().tolist()) == ([1, 0], [0, 0])


def test_an_empty_source_leaves_the_table_and_with_prune_empties_it():
    stored = [[Held(0, 0, 0), Held(1, 1, 0)], [Held(2, 2, 0)]]
    plan = plan_of([], stored)
    assert (len(plan.fate), len(plan.due), len(plan.drops), plan.n_groups) == (0, 0, 0, 0)
    assert plan.group_of_file.tolist() == [0, 0]
    assert plan.n_due_by_group().tolist() == [0]
    plan = plan_of([], stored, prune=True)
    assert (plan.deleted, len(plan.due)) == (3, 0)
    assert drops_of(plan) == [(0, 0), (0, 1), (1, 0)]


def test_an_empty_table_takes_every_row():
    plan = plan_of([[Row(0, 0, 0)], [Row(1, 1, 0)]], prune=True)
    assert counts_of(plan) == {"embedded": 2}
    assert due_of(plan) == {(0, 0): (EMBEDDED, EMBED, 0), (1, 0): (EMBEDDED, EMBED, 0)}
    assert (plan.n_groups, len(plan.drops), plan.deleted, plan.n_ids_stored) == (0, 0, 0, 0)


def test_nothing_against_nothing_is_an_empty_plan():
    plan = make_plan(NOTHING, NOTHING, NOTHING, current_file=np.zeros(0, bool), prune=True)
    assert (len(plan.fate), len(plan.due), len(plan.drops), plan.deleted) == (0, 0, 0, 0)
    assert plan.n_due_by_group().tolist() == [0]


def test_a_renamed_row_takes_its_old_vector():
    plan = plan_of([[Row(1, 0, 0)]], [[Held(5, 5, 0), Held(0, 0, 0)]])
    assert counts_of(plan) == {"embedded": 1}
    assert due_of(plan) == {(0, 0): (EMBEDDED, COPY, 0)}
    due = plan.due[0]
    assert (due["from_file"], due["from_position"], due["from_count"]) == (0, 1, 1)


def test_a_file_of_another_recipe_is_embedded_anew_and_no_vector_of_it_is_copied():
    stored = [[Held(0, 0, 0)], [Held(1, 1, 0)]]
    plan = plan_of([[Row(0, 0, 0), Row(1, 1, 0), Row(2, 0, 0)]], stored, current=[False, True])
    assert counts_of(plan) == {"unchanged": 1, "replaced": 1, "embedded": 1}
    assert due_of(plan) == {(0, 0): (REPLACED, EMBED, 1)}  # the new id waits for its vector
    assert plan.deferred == 1


def test_an_id_that_stands_twice_is_written_once():
    stored = [[Held(0, 0, 0)], [Held(1, 1, 0)], [Held(0, 0, 0)]]
    plan = plan_of([[Row(0, 0, 0), Row(1, 1, 0)]], stored, wave_rows=1)
    assert counts_of(plan) == {"unchanged": 1, "replaced": 1}
    assert due_of(plan) == {(0, 0): (REPLACED, COPY, 1)}
    assert drops_of(plan) == [(0, 0), (2, 0)]
    assert plan.group_of_file.tolist() == [1, 0, 1]  # both copies go in one commit


def test_of_new_rows_with_one_content_the_first_is_due_and_the_others_wait():
    source = [[Row(0, 0, 0), Row(1, 0, 0), Row(2, 0, 1)]]
    plan = plan_of(source)
    assert due_of(plan) == {(0, 0): (EMBEDDED, EMBED, 0)}
    assert (counts_of(plan)["embedded"], plan.deferred) == (3, 2)
    plan = plan_of(source, defer=False)
    assert due_of(plan) == {(0, p): (EMBEDDED, EMBED, 0) for p in range(3)}
    assert (counts_of(plan)["embedded"], plan.deferred) == (3, 0)
    plan = plan_of(source, [[Held(0, 0, 0)]], defer=False)
    assert due_of(plan) == {(0, 1): (EMBEDDED, COPY, 0), (0, 2): (EMBEDDED, COPY, 0)}


def test_a_row_that_waits_keeps_its_old_row():
    plan = plan_of([[Row(0, 0, 0), Row(1, 0, 0)]], [[Held(1, 1, 0)]])
    assert counts_of(plan) == {"embedded": 1, "replaced": 1}
    assert due_of(plan) == {(0, 0): (EMBEDDED, EMBED, 0)}
    assert (plan.deferred, len(plan.drops)) == (1, 0)


def test_a_known_failure_is_not_tried_and_its_old_row_goes():
    failed = [(3, 3, KNOWN_EMBED), (0, 0, KNOWN_EMBED)]
    plan = plan_of([[Row(0, 0, 0)]], [[Held(0, 1, 0)]], failed)
    assert counts_of(plan) == {"known": 1}
    assert (len(plan.due), plan.n_groups) == (0, 1)
    assert drops_of(plan) == [(0, 0)]
    assert plan.known[:, 1].tolist() == [1]


def test_a_row_that_stands_in_both_tables_is_no_failure():
    plan = plan_of([[Row(0, 0, 0)]], [[Held(0, 0, 0)]], [(0, 0, KNOWN_EMBED)])
    assert counts_of(plan) == {"unchanged": 1}
    assert plan.known[:, 1].tolist() == []


def test_a_known_conflict_is_counted_and_not_told_again():
    plan = plan_of([[Row(0, 0, 0), Row(0, 1, 0)]], [[Held(0, 0, 0)]], [(0, 1, KNOWN_CONFLICT)])
    assert counts_of(plan) == {"unchanged": 1, "conflicts": 1}
    assert (len(plan.due), plan.known[:, 1].tolist()) == (0, [0])


def test_a_row_that_was_in_conflict_and_now_wins_is_embedded():
    plan = plan_of([[Row(0, 1, 0)]], [[Held(0, 0, 0)]], [(0, 1, KNOWN_CONFLICT)])
    assert counts_of(plan) == {"replaced": 1}
    assert due_of(plan) == {(0, 0): (REPLACED, EMBED, 1)}


def test_every_row_in_conflict_that_is_known_is_paired_with_a_failure():
    source = [[Row(0, 0, 0), Row(0, 1, 0), Row(0, 1, 0)]]
    failed = [(0, 1, KNOWN_CONFLICT), (0, 1, KNOWN_CONFLICT)]  # one record a row of the source
    plan = plan_of(source, [[Held(0, 0, 0)]], failed)
    assert counts_of(plan) == {"unchanged": 1, "conflicts": 2}
    assert (len(plan.due), plan.known.tolist()) == (0, [[1, 0], [2, 0]])


@pytest.mark.parametrize("stages", [(KNOWN_EMBED, KNOWN_CONFLICT), (KNOWN_CONFLICT, KNOWN_EMBED)])
def test_a_pair_that_failed_in_both_ways_is_known_in_both(stages):
    failed = [(0, 0, stage) for stage in stages]
    plan = plan_of([[Row(0, 0, 0)]], [], failed)
    assert counts_of(plan) == {"known": 1}
    plan = plan_of([[Row(0, 1, 0), Row(0, 0, 0)]], [[Held(0, 1, 0)]], failed)
    assert counts_of(plan) == {"unchanged": 1, "conflicts": 1}
    assert len(plan.due) == 0


def test_files_are_grouped_until_enough_rows_wait_for_them():
    stored = [[Held(i, i, 0)] for i in range(5)]
    source = [[Row(0, 0, 1), Row(1, 1, 0), Row(2, 2, 1), Row(3, 3, 1), Row(4, 4, 1)]]
    groups = {
        wave: plan_of(source, stored, wave_rows=wave).group_of_file.tolist() for wave in (1, 2, 99)
    }
    assert groups == {1: [1, 0, 2, 3, 4], 2: [1, 0, 1, 2, 2], 99: [1, 0, 1, 1, 1]}
    assert plan_of(source, stored, wave_rows=2).n_due_by_group().tolist() == [0, 2, 2]


def test_files_that_only_lose_rows_stand_in_a_group_too():
    stored = [[Held(0, 0, 0)], [Held(1, 1, 0)], [Held(2, 2, 0)]]
    plan = plan_of([[Row(1, 1, 1)]], stored, prune=True, wave_rows=1)
    assert plan.group_of_file.tolist() == [1, 1, 2]
    assert (plan.deleted, plan.n_due_by_group().tolist()) == (2, [0, 1, 0])


def test_rows_of_passages_go_and_come_as_documents():
    one, two = document(Held(0, 1, 0)), document(Held(1, 2, 0))
    source = [[Row(0, 1, 0), Row(1, 2, 1), Row(2, 2, 0)]]
    plan = plan_of(source, [[*one, *two]], passages=True)
    assert counts_of(plan) == {"unchanged": 1, "updated": 1, "embedded": 1}
    assert due_of(plan) == {(0, 1): (UPDATED, COPY, 1), (0, 2): (EMBEDDED, COPY, 0)}
    assert drops_of(plan) == [(0, 2), (0, 3), (0, 4)]
    copied = plan.due[["from_file", "from_position", "from_count"]].tolist()
    assert copied == [(0, 2, 3), (0, 2, 3)]
    assert plan.n_ids_stored == 2


def test_a_document_whose_passages_lie_apart_is_never_copied_from():
    mixed = [Held(0, 1, 0, 0), Held(1, 2, 0, 0), Held(0, 1, 0, 1), Held(1, 2, 0, 1), Held(1, 2, 0, 2)]  # fmt: skip
    plan = plan_of([[Row(2, 1, 0)]], [mixed], passages=True)  # as a foreign sort may leave it
    assert due_of(plan) == {(0, 0): (EMBEDDED, EMBED, 0)}


def test_a_document_that_lies_in_two_files_goes_in_one_commit():
    one, two = document(Held(0, 1, 0))
    plan = plan_of([[Row(0, 3, 0)]], [[one], [two]], passages=True, wave_rows=1)
    assert drops_of(plan) == [(0, 0), (1, 0)]
    assert plan.group_of_file.tolist() == [1, 1]


def test_a_document_that_stands_twice_is_embedded_anew():
    files = [document(Held(0, 1, 0)), document(Held(0, 1, 0))]  # a foreign append
    plan = plan_of([[Row(0, 1, 0)]], files, passages=True)
    assert counts_of(plan) == {"replaced": 1}
