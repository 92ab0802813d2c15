"""Models: loading them, looking at weight files before anything loads them, GGUF files made plain checkpoints."""
