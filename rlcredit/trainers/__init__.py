"""Trainers: TRL's, with credit."""
