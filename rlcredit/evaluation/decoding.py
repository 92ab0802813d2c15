"""Decoding by the caller's settings alone: what a model's generation_config.json asks for beside them is left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""What is kept of the file: which tokens begin, end and fill a text."""
NEUTRAL = {  # beside what is false, 0 or empty
    "temperature": 1.0,
    "top_p": 1.0,
    "typical_p": 1.0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "guidance_scale": 1.0,
    "use_cache": True,
}
# Of the file itself, or of lengths that every caller sets.
UNRELATED = (*TOKENS, "transformers_version", "max_length", "max_new_tokens", "cache_implementation")


@contextmanager
def own_decoding(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Within, `model.generate` takes from the model's generation config its special tokens alone."""
    owner = model.get_base_model() if isinstance(model, PeftModel) else model
    theirs = owner.generation_config
    owner.generation_config = GenerationConfig(**{name: getattr(theirs, name) for name in TOKENS})
    try:
        yield
    finally:
        owner.generation_config = theirs


def left_out(settings: GenerationConfig) -> dict[str, Any]:
    """The settings of a generation config that would change what is generated, and that `own_decoding` leaves out."""
    return {
        name: value
        for name, value in sorted(settings.to_diff_dict().items())
        if not name.startswith("_") and name not in UNRELATED and value and value != NEUTRAL.get(name)
    }


def note_of(settings: GenerationConfig, who: str) -> list[str]:
    """A line on what is left out, if anything is.

    Args:
        settings: the model's generation config.
        who: whose settings count instead: "evaluation".
    """
    lines = ", ".join(f"{name} {value!r:.60}" for name, value in left_out(settings).items())
    return [f"generation_config.json: {who} decodes by its own settings and leaves out {lines}"] if lines else []
