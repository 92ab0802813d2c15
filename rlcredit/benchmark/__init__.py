"""A grid of training runs: what credit buys, with matched budgets, paired seeds and intervals."""
