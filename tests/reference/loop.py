"""Every formula of the method written as a loop over plain Python numbers: slow, and meant to be read.

Written from the method's text, not from the package: nothing of rlcredit is imported.
"""

from __future__ import annotations

import math
import statistics

NAN = math.nan


def spans(maps, response):
    """d[l][h]: maps[l][h][t][s] of one row; response: the positions R."""
    return [
        [sum(sum(a * (t - s) for s, a in enumerate(head[t])) for t in response) / len(response) for head in layer]
        for layer in maps
    ]


def groups(span, fraction):
    """(local, global): lists of (layer, head)."""
    ranked = sorted(((d, layer, head) for layer, row in enumerate(span) for head, d in enumerate(row)))
    size = max(1, math.floor(fraction * len(ranked) + 1e-9))
    names = [(layer, head) for _, layer, head in ranked]
    return names[:size], names[-size:]


def kurtosis(values):
    """Fourth central moment over the square of the second."""
    mean = sum(values) / len(values)
    second = sum((v - mean) ** 2 for v in values) / len(values)
    return sum((v - mean) ** 4 for v in values) / len(values) / second**2


def receivers(fais, fraction):
    """The (layer, head) whose FAI values, {(layer, head): [...]}, have the highest kurtosis."""
    ranked = sorted(fais, key=lambda name: (kurtosis(fais[name]), name))
    return ranked[-max(1, math.floor(fraction * len(ranked) + 1e-9)) :]


def mean_map(maps, heads):
    length = len(maps[0][0])
    return [
        [sum(maps[layer][head][t][s] for layer, head in heads) / len(heads) for s in range(length)]
        for t in range(length)
    ]


def waad(local_map, response, window):
    """{t: WAAD_t}"""
    return {t: sum(a * min(t - s, window) for s, a in enumerate(local_map[t]) if s <= t) for t in response}


def fai(global_map, response, lo, hi, rows=None):
    """{s: FAI_s}, where defined; `rows`: the tokens that it is a mean over, all of the response if left out."""
    found = {}
    for s in response:
        later = [t for t in (response if rows is None else rows) if t >= s + lo and (hi == -1 or t <= s + hi)]
        if later:
            found[s] = sum(global_map[t][s] for t in later) / len(later)
    return found


def top(values, response, q, bottom=False):
    """TopQ: the set of positions chosen; ties to the earlier token."""
    quota = math.ceil(q * len(response) - 1e-9)
    order = sorted(values, key=lambda t: (values[t] if bottom else -values[t], t))
    return set(order[:quota])


def change(waads, response):
    return {t: abs(waads[t] - waads[t + 1]) for t in response if t + 1 in waads}


def local_chunk(waads, response, q=0.4, a=1.5, bottom=False):
    chosen = top(change(waads, response), response, q, bottom)
    return {t: a if t in chosen else 1.0 for t in response}


def global_anchor(fais, response, q=0.4, a=1.5, bottom=False):
    chosen = top(fais, response, q, bottom)
    return {t: a if t in chosen else 1.0 for t in response}


def coupled_rhythm(waads, fais, response, q=0.4, a=1.5, k=3, alpha=0.5, bottom=False, tau_waad=0.5, tau_delta=None):
    """({t: gamma_t}, {dominated t: intro(t)})"""
    delta = change(waads, response)
    chunk, anchors = top(delta, response, q), top(fais, response, q, bottom)
    if tau_delta is not None:
        chunk = top(delta, response, tau_delta)
    low = sorted(waads.values())[math.floor(tau_waad * (len(waads) - 1) + 1e-9)]
    assert tau_waad != 0.5 or low == statistics.median_low(list(waads.values()))
    intro = {}
    for t in anchors:
        window = [u for u in range(t - k, t) if u in delta]
        if chunk and window and waads[t] <= low:
            best = max(delta[u] for u in window)
            if best >= min(delta[u] for u in chunk):
                intro[t] = max(u for u in window if delta[u] == best)
    gamma = dict.fromkeys(response, 1.0)
    for t in anchors:
        gamma[t] += (a - 1) * (1 - alpha if t in intro else 1)
    for u in set(intro.values()):
        gamma[u] += alpha * (a - 1)
    return gamma, intro


def layers(count, which="middle", number=5):
    """Indices read of `count` layers."""
    lo, hi = {
        "middle": (count // 3, min(2 * count // 3, count - 1)),
        "all": (0, count - 1),
        "bottom": (0, count // 3),
        "top": (min(2 * count // 3, count - 1), count - 1),
    }[which]
    if number == 1:
        return [(lo + hi) // 2]
    return sorted({math.floor(lo + i * (hi - lo) / (number - 1) + 0.5) for i in range(number)})
