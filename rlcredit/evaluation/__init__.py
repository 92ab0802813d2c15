"""Evaluation: sampled accuracies of a checkpoint with their uncertainty, and paired comparisons."""
