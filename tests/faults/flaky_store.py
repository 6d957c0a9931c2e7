"""A kind of fault: the table lies in an object store that is slow, refuses, and cuts connections."""

import json

from tests.faults import moving_corpus
from tests.faults.ledger import Ledger
from tests.stores.s3_server import running_s3

TROUBLE = ("slow down", "cut upload", "cut answer", "lose answer", "late")


def flaky_store(stage):
    """A table of its own in an object store that is slow, refuses, and cuts connections."""
    rng, files = stage.rng, {path.name: path.read_bytes() for path in stage.source.iterdir()}
    with running_s3() as bucket:
        table, pairs = bucket.uri("table"), bucket.pairs
        ledger = Ledger(stage.source, table, options=bucket.options, written=committed(bucket))
        earlier = moving_corpus.change(stage.rows(), rng, "before the store")
        for corpus in (moving_corpus.contents(earlier), files):
            moving_corpus.write(stage.source, corpus)
            ledger.expect(first=True)
            if corpus is not files:
                stage.wrong += [*ledger.to_rest(storage_option=pairs)[1], *ledger.check(None)]
        trouble = {"share": rng.choice([0.03, 0.1, 0.3]), "seed": rng.randrange(1000)}
        trouble["what"] = rng.sample(TROUBLE, rng.randint(1, len(TROUBLE)))
        with (
            bucket.disturbed(**trouble),
            stage.child(table=table, storage_option=pairs) as child,
        ):
            code, words = stage.end_of(child)
            n_disturbed = sum(bool(request["what"]) for request in bucket.seen())
        stage.expect(code, words, errors=["embatch: "])
        summary, wrong = ledger.to_rest(storage_option=pairs)
        stage.wrong += [*wrong, *ledger.check(summary)]
    how = f"{n_disturbed} requests: {', '.join(trouble['what'])}; exit code {code}"
    return n_disturbed > 0, how


def committed(bucket):
    """When a version of a table in a bucket was written, by its own word."""

    def when(uri, version):
        log = bucket.get(f"{uri.removeprefix(bucket.uri(''))}/_delta_log/{version:020}.json")
        actions = [json.loads(action) for action in log.splitlines()]
        return next(
            action["commitInfo"]["timestamp"] for action in actions if "commitInfo" in action
        )

    return when
