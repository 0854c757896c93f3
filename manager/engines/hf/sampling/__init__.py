"""Which token comes next: llama.cpp's samplers, in its order."""
