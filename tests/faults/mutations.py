"""Mistakes to plant in a run on purpose: a campaign of faults that does not see them sees nothing."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

from deltalake import CommitProperties
from deltalake.transaction import RemoveAction

from schemas.delta import fragments, store
from schemas.delta.store import Table


def no_fence():
    """Waves go onto the newest version, whatever was planned for."""

    def onto_the_newest(self, note, add=(), remove=()):
        self.handle.update_incremental()
        said = json.dumps({**note, "time": store.now().isoformat()})
        self.handle.create_write_transaction(
            [store._add_action(file, 0) for file in add]
            + [RemoveAction(file.name, True, 0, file.size_bytes) for file in remove],
            mode="append",
            schema=self.handle.schema(),
            commit_properties=CommitProperties(custom_metadata={"embatch": said}),
        )
        self.handle.update_incremental()

    Table.commit = onto_the_newest


def twice():
    """Each wave is committed, and then once more."""
    commit = Table.commit

    def again(self, note, add=(), remove=()):
        commit(self, note, add, remove)
        if add:
            copies = [replace(file, name=f"again-{file.name}") for file in add]
            for file, copy in zip(add, copies, strict=True):
                shutil.copy(Path(self.uri, file.name), Path(self.uri, copy.name))
            commit(self, note, copies)

    Table.commit = again


def early():
    """Files are committed before they are written."""
    write = fragments.write_tables

    def later(fs, name, schema, tables):
        rows = list(tables)
        rehearsal = write(fs, f"{name}.tmp", schema, rows)
        fs.delete_file(f"{name}.tmp")
        threading.Timer(1.0, write, (fs, name, schema, rows)).start()
        return replace(rehearsal, name=name)

    fragments.write_tables = later
    Table.check = lambda *_: None


MUTATIONS = {"no-fence": no_fence, "twice": twice, "early": early}


def plant(name):
    MUTATIONS[name]()
