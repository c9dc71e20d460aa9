"""`headrace verify`: every checksum of a dataset, a checkpoint, an export or all of a run's; names what is broken."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.foundation.errors import UserError
from data_pipeline.foundation.locations import shown, split_scheme
from data_pipeline.foundation.verb import Request, Verb


@dataclass
class VerifyConfig:
    """What to verify.

    Args:
        source: a dataset folder, a checkpoint, an export, or a run's folder for all its checkpoints; on this machine.
        repair: rebuild a dataset's indexes and manifest from its tars, where those are sound.
    """

    source: str = "???"
    repair: bool = False


def run(request: Request) -> int:
    """Verify; returns 0 if everything is as it was written, else 1."""

    composed = request.compose("verify", VerifyConfig)
    if composed is None:
        return 0
    scheme, path = split_scheme(composed.value.source)
    if scheme != "file":
        raise UserError(
            f"source={shown(composed.value.source)}: a dataset is verified where it lies, on the machine that serves "
            "it. What a run fetches of it is verified as it arrives"
        )
    problems = verify(Path(path), composed.value.repair)
    if request.json:
        print(json.dumps({"source": composed.value.source, "problems": problems}, ensure_ascii=False))
    else:
        print("\n".join(problems) if problems else f"{composed.value.source}: whole, every byte as it was written")
    return 1 if problems else 0


def verify(source: Path, repair: bool) -> list[str]:
    """Return what is wrong with a dataset, a checkpoint, an export or a run's checkpoints, a line each.

    Raises:
        UserError: the path is none of them, or a checkpoint was to be repaired.
    """
    from data_pipeline.verify import verify_dataset
    from train.checkpoint.folder import TRAINER, list_checkpoints, verify_checkpoint
    from train.exchange.record import RECORD, verify_export

    if not source.is_dir():
        raise UserError(f"source={source}: there is no such folder")
    if list(source.glob("*.tar")):
        return verify_dataset(source, repair)
    if (source / RECORD).exists() and not repair:
        return verify_export(source)
    if repair:
        raise UserError("repair=true is for datasets: a checkpoint's tensors are nowhere else to be had")
    if (source / TRAINER).exists() or list(source.glob("state-*.safetensors")):
        return verify_checkpoint(source)
    if checkpoints := list_checkpoints(source / "checkpoints"):
        return [problem for checkpoint in checkpoints for problem in verify_checkpoint(checkpoint)]
    raise UserError(f"source={source} is neither a dataset nor a checkpoint, an export or a run's folder")


VERB = Verb(
    name="verify",
    summary="every checksum of a dataset, a checkpoint or a run's checkpoints; exit 1 if any is wrong",
    run=run,
    keys=(
        ("source", "a dataset folder, a checkpoint, an exported folder or a run's folder"),
        ("repair", "rebuild a dataset's indexes and manifest from its tars"),
    ),
    examples=(
        "headrace verify source=datasets/python_docs",
        "headrace verify source=runs/demo",
        "headrace verify source=datasets/web repair=true",
    ),
    flags=("--json",),
)

if __name__ == "__main__":
    sys.exit(VERB.main())
