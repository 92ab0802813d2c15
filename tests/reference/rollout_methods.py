"""Token credit of methods that see the whole rollout, written as loops over plain Python numbers: slow, to be read.

Nothing of rlcredit is imported. Every function takes one group, the responses to one prompt:

    rows[i]         the positions of response i that carry credit, ascending (no prompt, padding or tool output)
    name[i][t]      a number of response i at position t, such as its entropy in nats
    rewards[i]      one number a response

and returns for each response {position: advantage or factor}. "The k-th place" is the k-th of a response's own
positions, so that responses with tool output in between are compared token by token.
"""

from __future__ import annotations

import math
import statistics


def spread(values):
    """The standard deviation with n - 1, as GRPO's group uses it; 0 for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def grpo(rewards, eps=1e-4):
    """(r_i - mean) / (std + eps) of each response (arXiv 2402.03300, section 4.1.2)."""
    return [(r - statistics.fmean(rewards)) / (spread(rewards) + eps) for r in rewards]


def otb(rows, token_rewards, probabilities, squares, eps=1e-8):
    """Optimal token baseline (arXiv 2602.07078): A_t = G_t - B_t.

    token_rewards[i][t]: the reward that lands at t; probabilities[i][t]: pi of the token at t; squares[i][t]: the sum
    of pi(v)^2 over the vocabulary there.
    """
    to_go, weight = [], []
    for i, row in enumerate(rows):
        to_go.append([sum(token_rewards[i][u] for u in row if u >= t) for t in row])
        energy = [1 - 2 * probabilities[i][t] + squares[i][t] for t in row]
        weight.append([sum(energy[: k + 1]) for k in range(len(row))])
    advantages = []
    for i, row in enumerate(rows):
        found = {}
        for k, t in enumerate(row):
            reach = [j for j in range(len(rows)) if len(rows[j]) > k]
            top = sum(to_go[j][k] * weight[j][k] for j in reach)
            found[t] = to_go[i][k] - top / (sum(weight[j][k] for j in reach) + eps)
        advantages.append(found)
    return advantages


def fisher(a, b, c, d):
    """Two-sided p of Fisher's exact test of the table [[a, b], [c, d]]: the tables with the same margins that are at
    most as likely as this one."""

    def chance(x):
        return math.comb(a + c, x) * math.comb(b + d, a + b - x) / math.comb(a + b + c + d, a + b)

    possible = range(max(0, a - d), min(a + b, a + c) + 1)
    return min(1.0, sum(chance(x) for x in possible if chance(x) <= chance(a) * (1 + 1e-7)))


def bits(*shares):
    return -sum(p * math.log2(p) for p in shares if p > 0)


def information_gain(a, b, c, d):
    """Entropy of right or wrong, minus that of right or wrong given whether the token occurs; in bits."""
    n = a + b + c + d
    gain = bits((a + c) / n, (b + d) / n)
    for right, wrong in ((a, b), (c, d)):
        if right + wrong:
            gain -= (right + wrong) / n * bits(right / (right + wrong), wrong / (right + wrong))
    return gain


def frequency(share, tokens, mean_tokens, k1=2.0, b=0.5):
    """The saturating frequency of BM25: `share` of the class's tokens, `tokens` in the class."""
    return share * (k1 + 1) / (share + k1 * (1 - b + b * tokens / mean_tokens))


def key_values(rows, ids, right, fisher_weight=1.0, gain_weight=1.0, excluded=()):
    """KTAE's value of each token id, -1 to 1 (arXiv 2505.16826; as the authors' code computes it)."""
    written = [[ids[i][t] for t in row] for i, row in enumerate(rows)]
    good = [w for w, is_right in zip(written, right, strict=True) if is_right]
    bad = [w for w, is_right in zip(written, right, strict=True) if not is_right]
    in_good, in_bad = [x for w in good for x in w], [x for w in bad for x in w]
    if not in_good or not in_bad:
        return {}
    values = {}
    for token in {x for w in written for x in w} - set(excluded):
        a, b = sum(token in w for w in good), sum(token in w for w in bad)
        c, d = len(good) - a, len(bad) - b
        p = fisher(a, b, c, d)
        association = fisher_weight * (0.0 if p > 1 - 1e-6 else math.exp(-2 * p))
        association += gain_weight * information_gain(a, b, c, d)
        mean_tokens = (len(in_good) + len(in_bad)) / 2
        often_good = frequency(in_good.count(token) / len(in_good), len(in_good), mean_tokens)
        often_bad = frequency(in_bad.count(token) / len(in_bad), len(in_bad), mean_tokens)
        direction = math.asin(math.sqrt(a / len(good))) - math.asin(math.sqrt(b / len(bad)))
        direction += often_good / (often_bad + 1e-5) - often_bad / (often_good + 1e-5)
        # 2 * sigmoid(x) - 1 = tanh(x / 2), which does not overflow
        values[token] = math.tanh(association / (fisher_weight + gain_weight) * direction / 2)
    return values


def ktae(rows, ids, rewards, above=0.0, **settings):
    """A_t = GRPO's advantage of the response + the value of its token at t; right means a reward above `above`."""
    values = key_values(rows, ids, [r > above for r in rewards], **settings)
    return [
        {t: advantage + values.get(ids[i][t], 0.0) for t in row}
        for i, (row, advantage) in enumerate(zip(rows, grpo(rewards), strict=True))
    ]


def gtpo(rows, entropies, rewards, share=0.1, above=0.0, apart=True, eps=1e-6):
    """GTPO (arXiv 2508.04349, eq. 3, 5 and 6): rewards shaped by entropy, right and wrong responses apart.

    Right, at the k-th place: (1 - share) + share * H / sum of H * d, over the d right responses that reach it; wrong:
    minus the same with 1 / H over the wrong ones. Normalised over the tokens of the right responses and of the wrong
    ones (`apart`), or over all tokens of the group.
    """
    right = [r > above for r in rewards]
    shaped = []
    for i, row in enumerate(rows):
        found = {}
        for k, t in enumerate(row):
            level = {
                j: entropies[j][rows[j][k]] + eps if right[i] else 1 / (entropies[j][rows[j][k]] + eps)
                for j in range(len(rows))
                if right[j] == right[i] and len(rows[j]) > k
            }
            size = (1 - share) + share * level[i] / sum(level.values()) * len(level)
            found[t] = size if right[i] else -size
        shaped.append(found)
    advantages = []
    for i, found in enumerate(shaped):
        pool = [x for j, other in enumerate(shaped) if not apart or right[j] == right[i] for x in other.values()]
        # a spread that is rounding alone is no spread
        scale = spread(pool) if spread(pool) > 1e-6 else math.inf
        advantages.append({t: (x - statistics.fmean(pool)) / scale for t, x in found.items()})
    return advantages


def process(rows, steps, eps=1e-4):
    """Process supervision of GRPO (DeepSeekMath, arXiv 2402.03300, section 4.1.3).

    steps[i]: {position of a step's last token: its reward}. Every step's reward is normalised by the mean and the
    standard deviation of all steps of the group; A_t is the sum of those of the steps that end at t or later.
    """
    pool = [r for step in steps for r in step.values()]
    mean, scale = (statistics.fmean(pool) if pool else 0.0), spread(pool) + eps
    return [
        {t: sum((r - mean) / scale for end, r in step.items() if end >= t) for t in row}
        for row, step in zip(rows, steps, strict=True)
    ]


def return_to_go(rows, steps):
    """[Not in a paper] Rewards that land at t or later, minus their mean over the responses that reach the place."""
    to_go = [
        [sum(r for end, r in step.items() if end >= t) for t in row] for row, step in zip(rows, steps, strict=True)
    ]
    return [
        {t: to_go[i][k] - statistics.fmean([g[k] for g in to_go if len(g) > k]) for k, t in enumerate(row)}
        for i, row in enumerate(rows)
    ]


def monte_carlo(row, values, reward, probabilities=None, limit=None):
    """V(next place) - V(place), shared by the tokens between two places (VinePPO, arXiv 2410.01679; SPO, 2505.23564).

    One response. values: {position t: estimate of V before the token at t is drawn}, `reward` the V after the last
    token. Tokens before the first place get 0, and so do those with a probability above `limit` (SPO's mask). A place
    at every token is VinePPO at its finest; at the decisive tokens, with the limit that made them decisive, it is the
    choice in which V stands still between two of them.
    """
    places = sorted(values)
    found = {}
    for t in row:
        before = [p for p in places if p <= t]
        after = [p for p in places if p > t]
        value_after = values[after[0]] if after else reward
        found[t] = value_after - values[before[-1]] if before else 0.0
        if limit is not None and probabilities[t] > limit:
            found[t] = 0.0
    return found


def answer_attention(row, answer, attention, floor=0.5, temperature=1.0, eps=1e-10):
    """ATPO's factor: what the answer's rows attend to. One response; attention[t][s] is the mean map over heads.

    Logarithm, z-score over the reasoning tokens, sigmoid; the answer's own tokens keep 1.
    """
    reasoning = [s for s in row if s not in answer and s < min(answer, default=0)]
    factor = dict.fromkeys(row, 1.0)
    if not reasoning:
        return factor
    logs = [math.log(statistics.fmean([attention[t][s] for t in answer]) + eps) for s in reasoning]
    mean, scale = statistics.fmean(logs), statistics.pstdev(logs)
    for s, x in zip(reasoning, logs, strict=True):
        z = (x - mean) / scale if scale > 1e-6 else 0.0
        factor[s] = floor + (1 - floor) / (1 + math.exp(-z / temperature))
    return factor


def reweight(row, probabilities, share=0.3):
    """Advantage reweighting (arXiv 2505.12929): the factor share * pi + 1 - share of a token of probability pi."""
    return {t: share * probabilities[t] + 1 - share for t in row}


def isolate(row, probabilities, limit=0.5):
    """Lopti (arXiv 2505.12929): the tokens of the first optimiser step of a batch, and those of the second."""
    first = [t for t in row if probabilities[t] < limit]
    return first, [t for t in row if t not in first]


def high_entropy(rows, entropies, share=0.2):
    """80/20 (arXiv 2506.01939): 1 for the tokens of all rows with the highest entropy, 0 for the others."""
    ranked = sorted((-entropies[i][t], i, t) for i, row in enumerate(rows) for t in row)
    kept = {(i, t) for _, i, t in ranked[: math.ceil(share * len(ranked) - 1e-9)]}
    return [{t: float((i, t) in kept) for t in row} for i, row in enumerate(rows)]
