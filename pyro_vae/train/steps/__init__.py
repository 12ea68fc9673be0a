"""One step of training: plain, recorded, as a CUDA graph."""
