"""A run of `jobs.embed` in a process of its own, which may kill itself at a commit.

    python -m fault_driver CONFIG.json

CONFIG holds `embed` (EmbedConfig), `model` (HashModel), `run` (keywords of `jobs.embed.run`),
`group_rows` (rows that one group of rewritten files waits for) and `kill`: null, or the table
(`main` or `failures`), the number of the commit there (`at`, from 1) and `when` (`before` or
`after` it). The summary is the one line on stdout; an error is one line on stderr, and exit code 1.
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from hash_model import HashModel

from jobs.embed import EmbedConfig, run
from schemas.plan import make_plan
from schemas.store import Table


def kill_at(table, at, when):
    """Wrap both ways in which a version comes to be, so that SIGKILL hits around the at-th."""
    n_commits = 0

    def around(uri, commit):
        nonlocal n_commits
        if uri.endswith(".failures") != (table == "failures"):
            return commit()
        n_commits += 1
        if n_commits == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = commit()
        if n_commits == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    create, commit = Table.create, Table.commit
    Table.create = lambda uri, *args: around(uri, lambda: create(uri, *args))
    Table.commit = lambda self, *args, **named: around(
        self.uri, lambda: commit(self, *args, **named)
    )


def main(config):
    make_plan.__kwdefaults__["wave_rows"] = config["group_rows"]
    if config["kill"]:
        kill_at(**config["kill"])
    try:
        summary = run(EmbedConfig(**config["embed"]), HashModel(**config["model"]), **config["run"])
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write(json.dumps(asdict(summary)))
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
