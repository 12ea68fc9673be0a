"""One training step: plain, recorded, compiled, or as a CUDA graph."""
