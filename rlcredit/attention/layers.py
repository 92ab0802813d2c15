"""Which layers are read (arXiv 2510.13554, section 5.1; rounding not in the paper)."""

from __future__ import annotations

import math

from transformers import PretrainedConfig

# Model types whose layers have no softmax attention at all: there is nothing to read.
NO_ATTENTION = ("falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm")
# Entries of config.layer_types that are softmax attention; the rest are state-space or linear layers.
SOFTMAX_LAYER_TYPES = ("attention", "chunked_attention", "full_attention", "sliding_attention")


def softmax_layers(config: PretrainedConfig) -> list[int]:
    """Indices of the layers with softmax attention, from the config alone (no weights are needed).

    Raises: ValueError, naming the model type, where a model has none or is no decoder.
    """
    text = config.get_text_config()
    name = getattr(text, "model_type", type(text).__name__)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"model type {name!r} is an encoder-decoder; credit reads decoder-only models")
    layer_types = getattr(text, "layer_types", None)
    if layer_types is not None:
        found = [index for index, kind in enumerate(layer_types) if kind in SOFTMAX_LAYER_TYPES]
    else:
        found = list(range(getattr(text, "num_hidden_layers", 0)))
    if name in NO_ATTENTION or not found:
        raise ValueError(
            f"model type {name!r} has no softmax attention to read credit from; use a transformer, or "
            "credit_strategy: uniform"
        )
    return found


def spaced(lo: int, hi: int, count: int) -> list[int]:
    """`count` evenly spaced whole numbers from lo to hi, halves rounded up, repeats dropped; one: the middle."""
    if count == 1:
        return [(lo + hi) // 2]
    numbers = [math.floor(lo + i * (hi - lo) / (count - 1) + 0.5) for i in range(count)]
    return sorted(set(numbers))


def choose_layers(config: PretrainedConfig, layers: str | list[int], count: int) -> list[int]:
    """Layer indices for `credit_layers` and `credit_num_layers`, ascending.

    Args:
        config: the model's config. Thirds are counted over its layers with softmax attention, then mapped back.
        layers: "middle" (default of the paper), "all", "top", "bottom" (Table 9), or explicit indices.
        count: how many evenly spaced layers of that range; ignored for explicit indices.
    """
    available = softmax_layers(config)
    if not isinstance(layers, str):
        if missing := [index for index in layers if index not in available]:
            raise ValueError(
                f"credit_layers: {missing} are no layers with softmax attention of this model; there are "
                f"{available[0]}..{available[-1]}"
            )
        return list(layers)
    last, third = len(available) - 1, len(available) / 3
    lower, upper = math.floor(third), min(math.floor(2 * third), last)
    lo, hi = {"middle": (lower, upper), "all": (0, last), "bottom": (0, lower), "top": (upper, last)}[layers]
    return [available[i] for i in spaced(lo, hi, count)]
