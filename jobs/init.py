"""Write a corpus.toml with an example of each section, to be changed by hand.

embatch init
embatch doctor corpus.toml
embatch refresh corpus.toml
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs import refreshing
from jobs.runtime.command import Flag, run_command

EXAMPLE = Path(refreshing.__file__).with_name("example.toml")


@dataclass(frozen=True)
class InitConfig:
    """The file to write.

    Attributes:
        file: file to write; an old one stays as it is
        json: print one line of JSON, the last on stdout
    """

    file: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.toml", help_behavior_hint="")
    ] = "corpus.toml"
    json: Flag = False


def run(config: InitConfig) -> dict[str, str]:
    """Write the example of a corpus.toml.

    Raises:
        OSError: the file exists, or cannot be written.
    """
    try:
        with open(config.file, "x", encoding="utf-8") as file:
            file.write(EXAMPLE.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise FileExistsError(f"{config.file} is there already, and stays as it is.") from error
    return {"file": config.file}


def _text(config: InitConfig, _: dict[str, str]) -> str:
    return (
        f"{config.file} is there. Say in it what to embed, then:\n"
        f"    embatch doctor {config.file}\n    embatch refresh {config.file}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(InitConfig, "init", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
