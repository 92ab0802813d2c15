"""Statistics: numbers in, estimates with intervals out. Nothing here knows of models, runs or pages."""
