"""HTTPS: which files a certificate is in, whether they are right, and the context that the service listens with.

Importing this costs nothing: `cryptography` is loaded when a ServerTls is made.
"""

from __future__ import annotations

from manager.tls.context import ServerTls
from manager.tls.renewal import follow

__all__ = ["ServerTls", "follow"]
