"""What a second thread gains on a CPU, and costs where other work runs: one table on the terminal.

python scripts/bench_threads.py                    two busy neighbours; each setting in a process of its own
python scripts/bench_threads.py --neighbours 0     an idle machine
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

SIZES = {"1 M": (128, 6), "5 M": (256, 6), "25 M": (512, 8)}  # width, layers
SETTINGS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two, spinning": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"},
    "two, sleeping": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
}
REPEATS = 4


def measure(width: int, layers: int) -> dict[str, float]:
    """Wall and CPU seconds of a step, the least of several: training on 16 rows of 64 tokens, generating 12."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(1, width // 64)
    shape = dict(hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, vocab_size=1_000)
    model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=heads, num_key_value_heads=heads))
    ids = torch.randint(0, 1_000, (16, 64))
    found = []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        model(ids, labels=ids).loss.backward()
        model.generate(ids[:, :16], max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0)
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return {"wall": min(wall for wall, _ in found), "cpu": min(cpu for _, cpu in found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--neighbours", type=int, default=2, help="processes that keep a core busy meanwhile")
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one)))
        return
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.neighbours)]
    try:
        print(f"{arguments.neighbours} busy neighbours; seconds a step, wall (CPU)")
        for name, (width, layers) in SIZES.items():
            cells = []
            for setting, environment in SETTINGS.items():
                command = [sys.executable, __file__, "--one", str(width), str(layers)]
                ran = subprocess.run(
                    command,
                    env=os.environ | environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    check=True,
                )
                found = json.loads(ran.stdout.splitlines()[-1])
                cells.append(f"{setting} {found['wall']:.2f} ({found['cpu']:.2f})")
            print(f"{name:5} {', '.join(cells)}", flush=True)
    finally:
        for process in busy:
            process.kill()


if __name__ == "__main__":
    main()
