"""One training step: plain, recorded, or as a CUDA graph."""
