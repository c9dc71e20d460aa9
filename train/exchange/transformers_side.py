"""The other side of a proof: Transformers, which reads a folder as its users do.

Only files are read, nothing is fetched and no code of a folder's own is run.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.foundation.errors import Failure, UserError
from data_pipeline.tokenization.tokenizer import Tokenizer
from train.exchange.experts import FusedExperts, StackedExperts
from train.exchange.proof import lend_weights, require_same_tokens
from train.exchange.weights import Weights

OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def transformers_version() -> str | None:
    """Return the version that is installed, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("transformers")
    except PackageNotFoundError:
        return None


def logits_of_folder(folder: Path, weights: Weights, tokens: list[int]) -> Tensor:
    """Return the logits (T, vocabulary) of the model that Transformers makes of a folder, layer by layer.

    Args:
        weights: those of the folder, by the names that they have in it.

    Raises:
        Failure: the folder lacks a tensor that the model has, or has one too many.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, **OFFLINE)
    with torch.device("meta"):
        model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Rotary frequencies are computed when the model is made, which on the meta device is never.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    if config.model_type == "mixtral":
        weights = FusedExperts(StackedExperts(weights))
    names = {name for name, _ in model.named_parameters()}
    if wrong := sorted(name for name in names ^ set(weights.shapes) if not _may_be_extra(name, config)):
        raise Failure(f"the proof failed: {folder} lacks or has too much: {', '.join(wrong[:5])}")
    tied = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    lend_weights(model, lambda name: weights.read(tied if name == "lm_head.weight" else name))
    with torch.inference_mode():
        return model.eval()(torch.tensor([tokens]), use_cache=False).logits[0]


def logits_of_gguf(path: Path, tokens: list[int]) -> Tensor:
    """Return the logits (T, vocabulary) of the model that Transformers makes of a GGUF file, all of it in memory.

    Raises:
        UserError: accelerate isn't installed.
        Failure: Transformers can't read the file.
    """
    import transformers

    if find_spec("accelerate") is None:
        raise UserError(
            "Transformers reads a GGUF file only with accelerate: pip install 'headrace[export]', or give proof=own"
        )
    transformers.utils.logging.disable_progress_bar()
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, **OFFLINE
        )
    except Exception as error:  # of any kind: it doesn't know all that such files can hold
        raise Failure(
            f"Transformers can't read {path} ({' '.join(str(error).split())}); proof=own compares by our own reader"
        ) from None
    with torch.inference_mode():
        return model.eval()(torch.tensor([tokens]), use_cache=False).logits[0]


def _may_be_extra(name: str, config: Any) -> bool:
    return name.endswith("rotary_emb.inv_freq") or (config.tie_word_embeddings and name == "lm_head.weight")


def require_same_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Compare the tokenizer that Transformers makes of a folder with ours.

    Raises:
        Failure: it cuts or writes the passage differently, or has another chat template.
    """
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder, **OFFLINE)
    require_same_tokens(
        tokenizer,
        lambda text: theirs(text, add_special_tokens=False)["input_ids"],
        lambda ids: str(theirs.decode(ids, clean_up_tokenization_spaces=False)),
    )
    if tokenizer.chat_template is not None and theirs.chat_template != tokenizer.chat_template:
        raise Failure("the proof failed: the chat template is another one when it is read back; nothing was written")


def require_same_end(folder: Path, tokenizer: Tokenizer) -> None:
    """Raise Failure where a model that Transformers generates from would not end where ours does."""
    import transformers

    ends = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    if tokenizer.end_of_document not in (ends if isinstance(ends, list) else [ends]):
        raise Failure(f"the proof failed: generation ends at token {ends}, not at {tokenizer.end_of_document}")


def choose_prover(proof: str, needed: Callable[[], str | None] = transformers_version) -> str:
    """Return which side a proof is made with: `transformers` or `own`.

    Raises:
        UserError: an unknown one, or Transformers isn't installed.
    """
    if proof not in ("transformers", "own"):
        raise UserError(f"proof={proof}: there are transformers and own")
    if proof == "transformers" and needed() is None:
        raise UserError(
            "the proof needs Transformers, which isn't installed: pip install 'headrace[export]', or let proof=own "
            "read the files back with our own reader alone"
        )
    return proof
