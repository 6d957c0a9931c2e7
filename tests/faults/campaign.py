"""A campaign of faults: a table is synced with a corpus that changes, and every run meets a fault.

    python -m tests.faults.campaign --n 300 --seed 1
    python -m tests.faults.campaign --seed 1 --only 17        that fault again

A fault counts if it hit: the process died at its work, the commit was refused, the disk was full.
After each the same command runs undisturbed until nothing is due, and `Ledger` says what is wrong.
N=30 takes five minutes on two cores. The last line is `N faults, V violations`; the exit code is 1
if there are any violations, or if fewer faults hit than were asked for.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.faults import moving_corpus
from tests.faults.kinds import KINDS, RAY, Stage
from tests.faults.ledger import Ledger
from tests.faults.mutations import MUTATIONS
from tests.faults.small_disk import SmallDisk

DRAWS = 10  # a fault that does not hit is drawn again so often
REPLAYED = 5  # before the one fault that is asked for, the corpus changes so often undisturbed
FIRST_RUNS = 0.12  # share of the faults that meet a run which makes its table
FIRST_RAY, RAY_EVERY = 4, 13
OFTEN = ("commit", "source")  # twice in each round


def deck(n, kinds, seed):
    """Kinds of the faults 1 to n: rounds in which each comes up, and one of Ray's now and then."""
    rng, drawn = random.Random(f"{seed} deck"), []
    quick = [kind for kind in kinds if kind not in RAY]
    quick += [kind for kind in OFTEN if kind in kinds]
    slow = [kind for kind in RAY if kind in kinds]
    left = []
    while len(drawn) < n:
        turn, is_ray = divmod(len(drawn) + RAY_EVERY - FIRST_RAY + 1, RAY_EVERY)
        if slow and (not quick or not is_ray):
            drawn.append(slow[(turn if quick else len(drawn)) % len(slow)])
            continue
        left = left or rng.sample(quick, len(quick))
        drawn.append(left.pop())
    return drawn


class Campaign:
    """Faults on one table.

    Attributes:
        folder: for everything, the table on a disk of its own in it.
        seed: decides.
        mutation: mistake that every disturbed run makes, or None.
        violations: how many there were.
    """

    def __init__(self, folder, seed, mutation):
        self.folder, self.seed, self.mutation = folder, seed, mutation
        self.source = folder / "source"
        self.disk = SmallDisk(folder / "disk")
        self.ledger = Ledger(self.source, self.disk.folder / "table")
        self.corpora = []
        self.violations = 0

    def corpus(self, number):
        """The corpus that fault `number` meets; 0 is the one before all."""
        for step in range(len(self.corpora), number + 1):
            rows = self.corpora[-1] if step else {}
            rng = random.Random(f"{self.seed} {step}")
            self.corpora.append(moving_corpus.change(rows, rng, step))
        return self.corpora[number]

    def begin_anew(self):
        """Take the table away."""
        for folder in self.disk.folder.iterdir():
            shutil.rmtree(folder)
        self.ledger.begin_anew()

    def begin(self, number):
        """Make the table that fault `number` meets, with no fault."""
        for step in range(max(0, number - REPLAYED), number):
            moving_corpus.write(self.source, moving_corpus.contents(self.corpus(step)))
            self.ledger.expect(first=True)
            for what in [*self.to_rest(), *self.look()]:
                self.say_wrong(number, "before any fault", what)

    def fault(self, number, kind):
        """Draw a fault until it hits; returns whether it did."""
        for draw in range(DRAWS):
            started = time.monotonic()
            rng = random.Random(f"{self.seed} {number} {draw}")
            rows = self.corpus(number)
            if draw:
                rows = moving_corpus.change(rows, rng, f"{number}, draw {draw}")
            moving_corpus.write(self.source, moving_corpus.contents(rows))
            if rng.random() < FIRST_RUNS:
                self.begin_anew()
            self.ledger.expect(first=True)
            hit, how, wrong = self.meet(kind, rng)
            seconds = time.monotonic() - started
            said = "hit" if hit else "did not hit"
            tell(f"{number:4}  {kind:10} {said:12} {seconds:5.1f} s  {how}")
            for what in wrong:
                self.say_wrong(number, f"{kind}: {how}", what)
            if wrong:  # one mistake is told once
                self.begin_anew()
            if hit or wrong:
                return hit
        return False

    def meet(self, kind, rng):
        """Lay a fault, let the table come to rest, look; whether it hit, how, and what is wrong."""
        stage = Stage(
            folder=self.folder,
            source=self.source,
            table=self.disk.folder / "table",
            disk=self.disk,
            rng=rng,
            mutation=self.mutation,
        )
        hit, how, wrong = False, "", stage.wrong

        def lay():
            nonlocal hit, how
            hit, how = KINDS[kind](stage)
            self.ledger.expect(first=False)
            return []

        for step in (lay, self.to_rest, self.look):
            try:
                for what in step():
                    wrong.append(what)
            except Exception as error:  # the campaign goes on, and tells it
                at = traceback.extract_tb(error.__traceback__)[-1]
                wrong.append(f"{step.__name__}: {type(error).__name__}: {error} ({at.name})")
        return hit, how, wrong

    def to_rest(self):
        self.summary = None
        self.summary, wrong = self.ledger.to_rest()
        return wrong

    def look(self):
        return self.ledger.check(self.summary)

    def say_wrong(self, number, how, what):
        self.violations += 1
        kept = Path(f"{self.folder}-violations", str(number))
        if not kept.exists():
            shutil.copytree(self.disk.folder, kept / "disk")
            shutil.copytree(self.source, kept / "source")
        tell(f"VIOLATION seed {self.seed}, fault {number} ({how}): {what}")
        tell(
            f"    again: python -m tests.faults.campaign --seed {self.seed} --only {number}; see {kept}"
        )


def tell(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=30, help="faults that are to hit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="number of the one fault to lay")
    parser.add_argument("--kinds", default=",".join(KINDS), help="to draw from, with commas")
    parser.add_argument("--mutation", choices=MUTATIONS, help="a mistake that every run makes")
    asked = parser.parse_args(arguments)
    kinds = asked.kinds.split(",")
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"Unknown kinds: {', '.join(unknown)}. Known: {', '.join(KINDS)}")
    numbers = [asked.only] if asked.only else range(1, asked.n + 1)
    drawn = deck(max(numbers), kinds, asked.seed)
    with tempfile.TemporaryDirectory(prefix="embatch-faults-") as folder:
        campaign = Campaign(Path(folder), asked.seed, asked.mutation)
        how = "a tmpfs" if campaign.disk.is_mounted else "limits and permissions"
        tell(f"seed {asked.seed}; a full or read-only disk is {how}")
        try:
            campaign.begin(numbers[0])
            hits = sum(campaign.fault(number, drawn[number - 1]) for number in numbers)
        finally:
            campaign.disk.give_back()
    tell(f"{hits} faults, {campaign.violations} violations")
    return int(campaign.violations > 0 or hits < len(numbers))


if __name__ == "__main__":
    sys.exit(main())
