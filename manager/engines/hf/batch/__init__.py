"""Sequences that share steps: their caches, their attention, and the thread that runs them."""
