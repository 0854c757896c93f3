"""Hugging Face models in the service's own process, behind the same seam as llama.cpp's.

torch and transformers are imported in this package only, and only when the first such model is loaded.
"""
