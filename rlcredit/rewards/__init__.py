"""Reward functions as users write them: what they take, one call before a run, and guards around every call."""
