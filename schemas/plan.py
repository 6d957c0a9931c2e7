"""The plan of a run: which rows are due, found by comparing a source's keys with a table's.

The plan decides everything that a run does, so that the counts, the progress bar and the dry run
are exact. It is pure NumPy on sorted arrays, without a Python object a row: `make_plan` takes three arrays
of `KEYS` and touches no file.
"""

from dataclasses import dataclass

import numpy as np

from schemas.keys import dense_codes

EMBED, COPY, REFUSE = 0, 1, 2  # what a due row needs: the model, a vector of the table, a failure
UNCHANGED, EMBEDDED, REPLACED, UPDATED, DUPLICATE, CONFLICT, KNOWN = range(7)
"""The fate of a row of the source. CONFLICT: its id is that of another row with other content. KNOWN: it
failed before under this recipe, and is not tried."""
KNOWN_EMBED, KNOWN_CONFLICT = 1, 2
WAVE_ROWS = 50_000  # rows that one group of rewritten files waits for
NO_IDS = np.zeros((0, 2), np.uint64)

DUE = np.dtype(
    [
        ("at", "<u8"),  # index into the source's keys
        ("file", "<i4"),
        ("position", "<u4"),
        ("id", "<u8"),  # the first half of its hash; with the next two it is checked when the row
        ("content", "<u8", 2),  # is read again
        ("row", "<u8"),
        ("action", "u1"),
        ("group", "<i4"),  # 0: no old row; else the set of table files that is rewritten with it
        ("from_file", "<i4"),  # COPY: where the vector stands in the table
        ("from_position", "<u4"),
        ("from_count", "<u4"),
    ]
)


@dataclass(frozen=True)
class Plan:
    """The plan of a run: which rows are embedded or copied, and which rows leave the table.

    Attributes:
        fate: (n,) uint8, UNCHANGED to KNOWN: the fate of each row of the source that could be read.
        deleted: number of ids that leave the table because the source has them no longer.
        withdrawn: number of ids that leave the table because their row can no longer be read.
        due: (k,) DUE: the due rows, in the order of the work.
        deferred: number of rows, of fate EMBEDDED or REPLACED, that wait for another row of the same
            content; the next plan finds that row's vector in the table.
        drops: (m,) KEYS: rows that leave the table, sorted by file and position.
        group_of_file: (n files,) int32: group of each file, 0 where a file stays as it is.
        n_groups: groups are 1 to n_groups.
        known: (r, 2) int64: index of each row of the source that failed before, and the `position` of its
            failure among those given to `make_plan`.
        n_ids_stored: number of distinct ids in the table.
    """

    fate: np.ndarray
    deleted: int
    withdrawn: int
    due: np.ndarray
    deferred: int
    drops: np.ndarray
    group_of_file: np.ndarray
    n_groups: int
    known: np.ndarray
    n_ids_stored: int

    def n_due_by_group(self) -> np.ndarray:
        """Number of due rows of each group, (n_groups + 1,) int64; rows of group 0 replace no old row."""
        return np.bincount(self.due["group"], minlength=self.n_groups + 1)


def make_plan(
    source: np.ndarray,
    stored: np.ndarray,
    failed: np.ndarray,
    *,
    current_file: np.ndarray,
    unreadable: np.ndarray = NO_IDS,
    passages: bool = False,
    prune: bool = False,
    defer: bool = True,
    wave_rows: int = WAVE_ROWS,
) -> Plan:
    """Plan a run by comparing the keys of a source with the keys of a table.

    Args:
        source: (n,) KEYS of the source, in order of file and position: of rows with one id the
            first wins.
        stored: (m,) KEYS of the table's rows, `where` in [0, len(current_file)).
        failed: (f,) KEYS of known failures (`id` and `content`); `row` is KNOWN_EMBED where the
            model refused the row under this recipe, KNOWN_CONFLICT where its id was another's.
        current_file: (n files,) bool, True where this recipe made the rows of the file.
        unreadable: (u, 2) uint64, hashed ids of rows that could not be read: where no other row of the
            source has such an id, the rows of this id leave the table.
        passages: the table holds several rows an id.
        prune: remove rows from the table whose ids the source has no longer.
        defer: of new rows with one content only the first is due.
        wave_rows: due rows after which the next table file begins another group.

    Returns:
        The plan. An empty source gives an empty plan (with `prune`, one that deletes every row).
    """
    n = len(source)
    ids = dense_codes(np.concatenate([source["id"], stored["id"], failed["id"], unreadable]))
    contents = dense_codes(
        np.concatenate([source["content"], stored["content"], failed["content"]])
    )
    n_ids = int(ids.max(initial=-1)) + 1
    ends = np.cumsum([n, len(stored), len(failed)])
    id_s, id_t, id_f, id_u = np.split(ids, ends)
    content_s, content_t, content_f = np.split(contents, [n, n + len(stored)])

    first = np.full(n_ids, -1)
    first[id_s[::-1]] = np.arange(n)[::-1]
    winner = first[id_s] == np.arange(n)
    duplicate = ~winner & (content_s == content_s[first[id_s]])
    conflict = ~winner & ~duplicate

    # One stored row stands for its id; where several disagree, the id is embedded anew.
    held = np.full(n_ids, -1)
    held[id_t[::-1]] = np.arange(len(stored))[::-1]
    copies = np.bincount(id_t, minlength=n_ids)
    twin = held[id_t]
    differs = (content_t != content_t[twin]) | (stored["row"] != stored["row"][twin])
    differs |= ~current_file[stored["where"]]
    elsewhere = stored["where"] != stored["where"][twin]
    offset = stored["position"].astype(np.int64) - stored["position"][twin]
    differs |= elsewhere | (offset >= copies[id_t])
    broken = np.zeros(n_ids, bool)
    broken[id_t[differs]] = True
    if not passages:
        broken |= copies > 1

    at = held[id_s]
    has = winner & (at >= 0)
    right = has & ~broken[id_s]
    right[right] = content_s[right] == content_t[at[right]]
    same_row = right.copy()
    same_row[right] = source["row"][right] == stored["row"][at[right]]
    updated = right & ~same_row

    n_contents = int(contents.max(initial=-1)) + 1
    pair_s, pair_f = id_s * n_contents + content_s, id_f * n_contents + content_f
    refused = failed["row"] == KNOWN_EMBED
    known = winner & ~right & np.isin(pair_s, pair_f[refused])
    reported = conflict & np.isin(pair_s, pair_f[~refused])
    need = winner & ~right & ~known

    # A vector that the table holds for the same content is copied; of new rows with one content
    # the first is embedded, and the others find its vector when they are planned again.
    origin = np.full(n_contents, -1)
    good = current_file[stored["where"]]
    if passages:
        good = good & ~broken[id_t]
    origin[content_t[good][::-1]] = np.flatnonzero(good)[::-1]
    source_of = np.where(updated, at, np.where(need, origin[content_s], -1))
    leads = need & (source_of < 0)
    leader = np.full(n_contents, -1)
    leader[content_s[leads][::-1]] = np.flatnonzero(leads)[::-1]
    deferred = leads & (leader[content_s] != np.arange(n)) & defer

    going = np.zeros(n_ids, bool)
    going[id_s[(known & has) | (need & has & ~deferred) | updated]] = True
    listed, withdrawn = np.zeros(n_ids, bool), np.zeros(n_ids, bool)
    withdrawn[id_u] = listed[id_u] = True
    withdrawn[id_s], listed[id_s] = False, True
    gone = ~listed[id_t] & prune
    dropped = going[id_t] | withdrawn[id_t] | gone

    chosen = (need & ~deferred) | updated | (conflict & ~reported)
    due = np.zeros(int(chosen.sum()), DUE)
    due["at"] = np.flatnonzero(chosen)
    due["file"], due["position"] = source["where"][chosen], source["position"][chosen]
    due["id"], due["row"] = source["id"][chosen, 0], source["row"][chosen]
    due["content"] = source["content"][chosen]
    taken = source_of[chosen]
    due["action"] = np.where(conflict[chosen], REFUSE, np.where(taken >= 0, COPY, EMBED))
    copied = taken >= 0
    due["from_file"][copied] = stored["where"][taken[copied]]
    due["from_position"][copied] = stored["position"][taken[copied]]
    due["from_count"][copied] = copies[id_t[taken[copied]]] if passages else 1

    file_of = np.where(has & ~deferred, at, -1)[chosen]
    old = file_of >= 0
    weights = np.bincount(stored["where"][file_of[old]], minlength=len(current_file))
    touched = np.unique(stored["where"][dropped])
    group_of_file = np.zeros(len(current_file), np.int32)
    scattered = elsewhere[dropped].any()
    steps = np.cumsum(weights[touched])
    group_of_file[touched] = 1 if scattered else 1 + (steps - weights[touched]) // wave_rows
    _, group_of_file[touched] = np.unique(group_of_file[touched], return_inverse=True)
    group_of_file[touched] += 1
    due["group"][old] = group_of_file[stored["where"][file_of[old]]]
    due = due[np.lexsort((due["position"], due["file"], due["group"]))]

    drops = stored[dropped]
    fates = {EMBEDDED: need & ~has, REPLACED: need & has, UPDATED: updated, DUPLICATE: duplicate}
    fates |= {CONFLICT: conflict, KNOWN: known}
    return Plan(
        fate=np.select(list(fates.values()), list(fates), UNCHANGED).astype(np.uint8),
        deleted=len(np.unique(id_t[gone])),
        withdrawn=len(np.unique(id_t[withdrawn[id_t]])),
        due=due,
        deferred=int(deferred.sum()),
        drops=drops[np.lexsort((drops["position"], drops["where"]))],
        group_of_file=group_of_file,
        n_groups=int(group_of_file.max(initial=0)),
        known=np.concatenate(
            [
                _pairs(pair_s, known, pair_f, refused, failed["position"]),
                _pairs(pair_s, reported, pair_f, ~refused, failed["position"]),
            ]
        ),
        n_ids_stored=int((copies > 0).sum()),
    )


def _pairs(
    rows: np.ndarray, chosen: np.ndarray, failures: np.ndarray, of: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Pairs of a chosen row and the number of the first failure with the same code.

    Args:
        rows: (n,) int64.
        chosen: (n,) bool; each chosen row has a failure.
        failures: (f,) int64, codes comparable with `rows`.
        of: (f,) bool: the failures to look at.
        numbers: (f,) integers: a number of each failure.

    Returns:
        (k, 2) int64: index of the row, number of the failure.
    """
    at = np.flatnonzero(chosen)
    codes, first = np.unique(failures[of], return_index=True)
    found = numbers[of][first[np.searchsorted(codes, rows[at])]] if len(at) else at
    return np.column_stack([at, found]).astype(np.int64)
