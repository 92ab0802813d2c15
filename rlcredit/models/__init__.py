"""Models: loading them, checking their files before that, and converting GGUF files to checkpoints."""
