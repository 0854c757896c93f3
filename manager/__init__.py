"""llamaherd: the service without its HTTP handlers."""
