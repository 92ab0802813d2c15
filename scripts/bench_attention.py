"""What reading attention costs: seconds and memory of a forward pass, side by side from one run.

    python scripts/bench_attention.py                          on this machine's CPU
    python scripts/bench_attention.py --kernels                the Triton kernels, on a CUDA device

A policy of 135 M parameters (SmolLM2's shape, random weights), one sequence, no gradient; the ways are taken in turn
and ratios are formed round by round:

    plain        a forward pass
    capture      the same pass with five layers read on the way
    auxiliary    a pass of its own that stops after the last of those layers (`rlcredit.analyze`)
    eager maps   a pass of its own that returns every layer's map, as other implementations do
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM

from rlcredit import CreditArguments, analyze
from rlcredit.attention import Capture, choose_layers, open_capture, signals_maker, triton_sweep

MIB = 2**20
SMOLLM2_135M = dict(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)


class Passes:
    """The ways of one sequence length."""

    def __init__(self, model: LlamaForCausalLM, length: int) -> None:
        self.model, self.args = model, CreditArguments()
        self.ids = torch.randint(0, model.config.vocab_size, (1, length))
        self.real = torch.ones_like(self.ids)
        self.response = torch.arange(length)[None] >= length // 8
        self.reading_seconds = 0.0

    @torch.no_grad()
    def plain(self) -> None:
        self.forward(reading=False)

    @torch.no_grad()
    def capture(self) -> None:
        self.forward(reading=True)

    def forward(self, reading: bool) -> torch.Tensor:
        """The logits of a pass."""
        capture = open_capture(self.model, self.args, self.real, self.response, finish=signals_maker(self.args))
        with capture.reading() if reading else nullcontext():
            logits = self.model(input_ids=self.ids, use_cache=False).logits
        if reading:
            capture.results()
            self.reading_seconds = capture.seconds
        return logits

    def auxiliary(self) -> None:
        analyze(self.model, self.ids, self.real, self.response, self.args)

    @torch.no_grad()
    def eager_maps(self) -> None:
        self.model.set_attn_implementation("eager")
        try:
            maps = self.model(input_ids=self.ids, use_cache=False, output_attentions=True).attentions
            apart = torch.arange(self.ids.shape[1])[:, None] - torch.arange(self.ids.shape[1])
            for layer in choose_layers(self.model.config, "middle", 5):  # as simply as can be: span and WAAD
                (maps[layer] * apart).sum((-1, -2))
                (maps[layer] * apart.clamp(max=self.args.credit_waad_window)).sum(-1)
        finally:
            self.model.set_attn_implementation("sdpa")

    def bytes_of_maps(self) -> int:
        config = self.model.config
        return 4 * config.num_hidden_layers * config.num_attention_heads * self.ids.shape[1] ** 2


def peak_bytes(run: Callable[[], None]) -> tuple[int, int]:
    """(peak, what is left) of the memory that torch's CPU allocator hands out while `run` runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    now = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak, now


def extra_bytes(passes: Passes) -> int:
    """The most that the capture holds at any moment: what it keeps of the layers read, and its work on the next."""
    kept = peak = 0
    see = Capture._see

    def watched(*args) -> None:
        nonlocal kept, peak
        inside, left = peak_bytes(lambda: see(*args))
        kept, peak = kept + left, max(peak, kept + inside)

    with mock.patch.object(Capture, "_see", watched):
        passes.capture()
    return peak


def slope(points: dict[int, float]) -> float:
    """Exponent p of the best fit of c * N^p."""
    x, y = [math.log(n) for n in points], [math.log(v) for v in points.values()]
    return statistics.linear_regression(x, y).slope


def bench_passes(lengths: list[int], repeats: int, most_memory: float) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(LlamaConfig(**SMOLLM2_135M), attn_implementation="sdpa").eval()
    print(f"\n{sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters, fp32, median of {repeats} rounds")
    print("| tokens | way | seconds | against plain | extra MiB |\n|---:|---|---:|---:|---:|")
    reading, memory = {}, {}
    for length in lengths:
        passes = Passes(model, length)
        ways = {"plain": passes.plain, "capture": passes.capture, "auxiliary": passes.auxiliary}
        if fits := passes.bytes_of_maps() < most_memory * 2**30:
            ways["eager maps"] = passes.eager_maps
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        read = []
        for number in range(repeats + 1):
            for way, run in ways.items():
                gc.collect()
                started = time.perf_counter()
                run()
                if number:  # the first round warms up
                    seconds[way].append(time.perf_counter() - started)
                if number and way == "capture":
                    read.append(passes.reading_seconds)
        reading[length], memory[length] = statistics.median(read), extra_bytes(passes)
        extra = {way: peak_bytes(run)[0] for way, run in ways.items() if way != "capture"}
        extra |= {"plain": 0, "capture": memory[length]}
        for way, values in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(values, seconds["plain"], strict=True))
            row = f"| {length} | {way} | {statistics.median(values):.2f} | {ratio:.3f} | {extra[way] / MIB:.1f} |"
            print(row, flush=True)
        if not fits:
            print(f"| {length} | eager maps | - | - | {passes.bytes_of_maps() / MIB:.0f}, more than there is |")
    print(f"\ncapture: memory grows as N^{slope(memory):.2f}, the time of reading as N^{slope(reading):.2f}:")
    print(", ".join(f"{n}: {1000 * s:.0f} ms" for n, s in reading.items()))


def bench_kernels(lengths: list[int]) -> None:
    """One layer of 32 query heads, 8 key heads and dimension 128 in bf16: statistics against flash attention, and
    against the column sums of flash-colreduce (`pip install flash-colreduce`), which are FAI over all later tokens."""
    colreduce = _optional("flash_colreduce")
    print("\n| tokens | flash forward ms | flash-colreduce ms | statistics ms | against flash |")
    print("|---:|---:|---:|---:|---:|")
    for length in lengths:
        q = torch.randn(1, length, 32, 128, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        k, v = torch.randn(2, 1, length, 8, 128, device="cuda", dtype=torch.bfloat16).transpose(2, 3)
        start, end = torch.tensor([[0], [length]], device="cuda")
        response = torch.arange(length, device="cuda")[None] >= length // 8
        options = {"scale": 128**-0.5, "window": 10, "horizon": (10, 100)}
        flash = cuda_milliseconds(partial(_flash, q, k, v))
        read = cuda_milliseconds(partial(triton_sweep.sweep, q, k, start, end, response, **options))
        sums = "not installed"
        if colreduce is not None:
            keys = k.repeat_interleave(4, dim=1)  # it knows no grouped heads
            sums = f"{cuda_milliseconds(partial(colreduce.flash_colreduce, q, keys, 'sum', is_causal=True)):.3f}"
        print(f"| {length} | {flash:.3f} | {sums} | {read:.3f} | {read / flash:.2f} |", flush=True)


def _optional(name: str) -> Any:
    return import_module(name) if find_spec(name) else None


def _flash(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def cuda_milliseconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Median time of a run on the device, after a few that warm up."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192], help="tokens")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--most-memory", type=float, default=12, help="GiB that eager maps may take (default 12)")
    parser.add_argument("--kernels", action="store_true", help="time the Triton kernels, on a CUDA device")
    options = parser.parse_args()
    if options.kernels:
        if not torch.cuda.is_available():
            parser.error("--kernels: torch sees no CUDA device here")
        print(f"{date.today()}, torch {torch.__version__}, {torch.cuda.get_device_name()}")
        bench_kernels([1024 * 2**i for i in range(8)])
        return
    print(f"{date.today()}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads")
    bench_passes(options.lengths, options.repeats, options.most_memory)


if __name__ == "__main__":
    main()
