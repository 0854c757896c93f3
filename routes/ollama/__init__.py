"""Ollama's API, as far as clients insist on it: to list models, to chat, to complete and to embed."""

from __future__ import annotations

from routes.ollama.chats import chat, generate
from routes.ollama.embedding import embed, embeddings
from routes.ollama.listing import ps, show, tags, version
from routes.ollama.pulling import pull

__all__ = ["chat", "embed", "embeddings", "generate", "ps", "pull", "show", "tags", "version"]
