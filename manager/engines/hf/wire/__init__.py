"""What goes in and out: requests of llama-server's paths read, and answers made in its shape."""
