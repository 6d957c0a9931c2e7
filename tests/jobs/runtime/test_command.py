import pytest

from actors.models import ModelError
from jobs import models
from jobs.runtime.command import user_errors
from jobs.runtime.ray_cluster import NoRay
from jobs.sync.errors import OtherSpace, SyncError
from jobs.sync.workers import WorkerError
from jobs.zero_shot import ClassError
from schemas.columns import SchemaError
from schemas.delta.claim import TableBusy
from schemas.delta.fragments import OutsideTable
from schemas.delta.store import Refused, StoreError
from schemas.errors import UsageError, UserError
from sources.rows import SourceError

MESSAGES = [NoRay, OtherSpace, SyncError, WorkerError, ClassError, SchemaError, TableBusy]
MESSAGES += [OutsideTable, Refused, StoreError, SourceError, ModelError, UserError, OSError]


@pytest.mark.parametrize("kind", MESSAGES)
def test_what_a_user_can_cause_is_one_message_without_secrets(kind, capsys):
    with user_errors() as outcome:
        raise kind("Cannot read https://me:1234@host/a?token=abc")
    told = capsys.readouterr()
    assert (outcome.exit_code, told.out) == (1, "")
    assert told.err == "embatch: Cannot read https://…@host/a?token=…\n"


def test_wrong_usage_is_exit_code_2_and_an_interruption_130(capsys):
    with user_errors() as outcome:
        raise UsageError("--k is 0, expected 1 or more.")
    assert (outcome.exit_code, capsys.readouterr().err) == (2, "embatch: --k is 0, expected 1 or more.\n")  # fmt: skip
    with user_errors() as outcome:
        raise KeyboardInterrupt
    assert (outcome.exit_code, capsys.readouterr().err) == (130, "embatch: interrupted.\n")


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, TypeError])
def test_a_bare_error_shows_as_the_bug_that_it_is(kind, monkeypatch):
    def broken(_):
        raise kind("operands could not be broadcast together")

    monkeypatch.setattr(models, "run", broken)
    with pytest.raises(kind, match="broadcast"):
        models.main([])
