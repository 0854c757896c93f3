"""The service as its users run it: a process of its own, real llama.cpp, real models, the official client."""
