"""`analyze` against the loop over each family's own eager maps: one tiny random model of every causal LM class.

python -m tests.families.walk                     print what became of every model type
python -m tests.families.walk llama gpt_oss       ... of these
python -m tests.families.walk --write             write docs/families.md (about a minute)
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rlcredit import CreditArguments, analyze
from rlcredit.attention import Capture, capture, softmax_layers, stream
from tests.families.tiny_config import CANNOT_BUILD, VARIANTS, VOCABULARY, tiny_config
from tests.reference import loop

DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"
B, N, PROMPT = 2, 24, 6
WINDOW, HORIZON, QUANTILE = 5, (3, 12), 0.4
# fp32 against float64: six layers of rounding leave up to 1e-5 of an attention weight, and these are sums of weights
TOLERANCE = {"span": 1e-4, "WAAD": 1e-4, "FAI": 1e-5}


@dataclass(frozen=True)
class Result:
    """What became of one family.

    Attributes:
        verdict: "exact", "WRONG", "refused" or "not built".
        traits: what its attention has beyond queries and keys, as seen while it ran.
        errors: the largest of span (relative), WAAD (tokens) and FAI; empty unless it was read.
        note: the reason for a refusal, or what could not be compared.
    """

    name: str
    verdict: str
    traits: tuple[str, ...] = ()
    errors: dict[str, float] | None = None
    note: str = ""


def every_family() -> list[str]:
    return sorted([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS])


def model_of(name: str, implementation: str) -> PreTrainedModel:
    """A random model whose attention is far from uniform."""
    kind = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[VARIANTS[name][0] if name in VARIANTS else name])
    torch.manual_seed(0)
    model = kind._from_config(tiny_config(name), attn_implementation=implementation)
    for parameter_name, parameter in model.named_parameters():
        if parameter.dim() > 1 or "sink" in parameter_name:  # sinks start at zero
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Row 0 padded on the left, row 1 with two response spans."""
    real = torch.ones(B, N, dtype=torch.long)
    real[0, :3] = 0
    response = real.bool().clone()
    response[:, :PROMPT] = response[1, 12:15] = False
    return real, response


def check(name: str) -> Result:
    """Compare one family, with eager attention and with sdpa where it has that."""
    if name in CANNOT_BUILD:
        return Result(name, "not built", note=CANNOT_BUILD[name])
    eager = model_of(name, "eager")
    try:
        layers = softmax_layers(eager.config)
    except ValueError as refusal:
        return Result(name, "refused", note=str(refusal))
    ids = torch.randint(2, VOCABULARY, (B, N), generator=torch.Generator().manual_seed(1))
    real, response = masks()
    args = CreditArguments(
        credit_layers=layers,
        credit_fai_horizon=list(HORIZON),
        credit_waad_window=WINDOW,
        credit_quantile=QUANTILE,
    )
    with torch.no_grad():
        output = eager(input_ids=ids, attention_mask=real, output_attentions=True, use_cache=False)
    maps = [layer for layer in output.attentions if layer.shape[-2:] == (N, N)]  # linear layers give theirs as well
    assert len(maps) == len(layers), f"{len(maps)} maps for layers {layers}"
    errors, traits, differ = dict.fromkeys(TOLERANCE, 0.0), set(), set()
    for implementation in ["eager", "sdpa"] if eager._supports_sdpa else ["eager"]:
        model = model_of(name, implementation)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits
        # both ways of a CPU: short rows go through blocks of scores, long ones through the fused kernel
        for fused_from in (1, stream.FUSED_FROM):
            try:
                with seen_traits(traits), mock.patch.object(stream, "FUSED_FROM", fused_from):
                    signals = analyze(model, ids, real, response, args)
            except RuntimeError as refusal:
                return Result(name, "refused", note=str(refusal))
            for row in range(B):
                there = real[row].bool()
                if not torch.allclose(logits[row, there], output.logits[row, there], atol=1e-3):
                    assert implementation == "sdpa", "two eager passes differ"
                    differ.add("any row" if there.all() else "padded rows")
                    continue
                begin = int(real[row].argmax())
                own = [[head[begin:, begin:].tolist() for head in layer[row]] for layer in maps]
                where = [t - begin for t in response[row].nonzero().flatten().tolist()]
                for what, error in differences(own, where, begin, row, signals).items():
                    errors[what] = max(errors[what], error)
    exact = all(errors[what] <= limit for what, limit in TOLERANCE.items())
    if len(layers) < eager.config.get_text_config().num_hidden_layers:
        traits.add("layers " + ", ".join(map(str, layers)))
    note = f"its own sdpa and eager passes differ on {min(differ)}; sdpa not compared there" if differ else ""
    return Result(name, "exact" if exact else "WRONG", tuple(sorted(traits)), errors, note)


@contextmanager
def seen_traits(traits: set[str]) -> Iterator[None]:
    """Note what the layers that are read have."""
    read_layer, read_map, own_blocks = Capture._layer, Capture._read_map, capture.eager.blocks

    def layer_of(self, call, *masks):
        layer = read_layer(self, call, *masks)
        bias = layer.mask_BHNN is not None and layer.mask_BHNN.dtype != torch.bool
        bias = bias and bool(((layer.mask_BHNN != 0) & (layer.mask_BHNN > -1e4)).any())
        found = {
            "grouped heads": layer.k_BKND.shape[1] < layer.q_BHND.shape[1],
            "value dimension of its own": call.value.shape[-1] != call.query.shape[-1],
            "soft-cap": layer.softcap is not None,
            "sinks": layer.sinks_H is not None,
            "window": layer.sliding_window is not None,
            "score bias": bias,
            "mask of its own": layer.mask_BHNN is not None and not bias,
        }
        traits.update(name for name, present in found.items() if present)
        return layer

    def map_of(self, *args):
        traits.add("read from its softmax")
        return read_map(self, *args)

    def blocks_of(*args):
        traits.add("read from its eager function")
        return own_blocks(*args)

    with (
        mock.patch.object(Capture, "_layer", layer_of),
        mock.patch.object(Capture, "_read_map", map_of),
        mock.patch.object(capture.eager, "blocks", blocks_of),
    ):
        yield


def differences(maps, where, begin, row, signals) -> dict[str, float]:
    """Largest errors of one row: span (relative), WAAD (tokens), FAI; and the tokens selected must be the same."""
    span = loop.spans(maps, where)
    found = signals.head_span[row].tolist()
    off = [abs(a - b) / b for got, want in zip(found, span, strict=True) for a, b in zip(got, want, strict=True)]
    # the groups of the fast path, so that equal spans within tolerance cannot change the comparison
    local = [tuple(pair) for pair in signals.local_heads[row].nonzero().tolist()]
    far = [tuple(pair) for pair in signals.global_heads[row].nonzero().tolist()]
    waads = loop.waad(loop.mean_map(maps, local), where, WINDOW)
    fais = loop.fai(loop.mean_map(maps, far), where, *HORIZON)
    got_waad = {t: signals.waad[row, t + begin].item() for t in where}
    got_fai = {t: value for t in where if not math.isnan(value := signals.fai[row, t + begin].item())}
    assert got_fai.keys() == fais.keys()
    same_selection(got_waad, waads, where, TOLERANCE["WAAD"])
    same_selection(got_fai, fais, where, TOLERANCE["FAI"])
    return {
        "span": worst(off),
        "WAAD": worst(abs(got_waad[t] - waads[t]) for t in where),
        "FAI": worst(abs(got_fai[t] - fais[t]) for t in fais),
    }


def worst(errors: Iterable[float]) -> float:
    """The largest; nan, which `max` may lose, counts as infinite."""
    return max(math.inf if math.isnan(error) else error for error in errors)


def same_selection(got, want, where, tolerance) -> None:
    """The same tokens are selected, apart from values within the tolerance of the cut-off."""
    ours, theirs = loop.top(got, where, QUANTILE), loop.top(want, where, QUANTILE)
    cut = min(want[t] for t in theirs)
    assert all(abs(want[t] - cut) <= 2 * tolerance for t in ours ^ theirs), (ours, theirs)


INTRODUCTION = """\
# Model families

Generated by `python -m tests.families.walk --write`; do not edit.

Every causal language model class of transformers {version} (`AutoModelForCausalLM`), and some variants, is built from
a tiny random config (fp32, CPU). The signals of `rlcredit.analyze` are compared with a loop over the family's own
eager attention maps, on rows with padding and several response spans, with eager attention and, where the family has
it, with sdpa. **{count} model types are exact.** The table has the largest errors: of the span relative, of WAAD in
tokens, of FAI absolute (limits {limits}). The same tokens are selected, apart from values
within these limits of the cut-off.

The traits are those of the tiny model. *Window*: a sliding window. *Mask of its own*: a mask that hides more than
causality, padding and the window do. *Score bias*: numbers that are added to the scores (ALiBi and the like).
*Sinks*: one more logit for each head. *Read from its eager function*: the family has a formula of its own, so its own
function is called, a few rows at a time. *Read from its softmax*: the family bypasses transformers' attention
interface; its map is held one layer at a time. *Layers*: the layers with softmax attention, where not all have it.

| model type | span | WAAD | FAI | traits | note |
|---|---:|---:|---:|---|---|
"""

NOTES = """
## Notes

* **JetMoE** routes each token to two of its experts, and each expert has query heads of its own. Head *h* is a place
  in the token's routing, as in the family's own maps: its span is a mean over whichever experts took that place.
* **Granite SWA** leaves its sink out of its attention weights and scales the output instead. As in its own maps, rows
  sum to 1.
* **DeepSeek V3.2, GLM-MoE-DSA and the like** attend to tokens that an indexer selects; hidden tokens have no weight.
* **Models with images or sound** are compared on text alone. Only the layers of their decoder are read.
* **Hybrids**: recurrent layers carry padding on the left into the tokens, in the family's own code.
"""


def document(results: list[Result]) -> str:
    """docs/families.md."""
    exact = [r for r in results if r.verdict == "exact"]
    lines = []
    for r in exact:
        figures = " | ".join(f"{r.errors[what]:.0e}" for what in TOLERANCE)
        lines.append(f"| {r.name} | {figures} | {', '.join(r.traits)} | {r.note} |")
    lines += ["", "## Not read", "", "| model type | why |", "|---|---|"]
    lines += [f"| {r.name} | {r.note} |" for r in results if r.verdict != "exact"]
    introduction = INTRODUCTION.format(
        version=transformers.__version__,
        count=len({VARIANTS[r.name][0] if r.name in VARIANTS else r.name for r in exact}),
        limits=", ".join(f"{what} {limit:g}" for what, limit in TOLERANCE.items()),
    )
    return introduction + "\n".join(lines) + "\n" + NOTES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="model types, or variants of tests/families/tiny_config.py")
    parser.add_argument("--write", action="store_true", help="write docs/families.md")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    results = []
    for name in options.names or every_family():
        results.append(check(name))
        print(results[-1], flush=True)
    if options.write:
        DOCUMENT.write_text(document(results))


if __name__ == "__main__":
    main()
