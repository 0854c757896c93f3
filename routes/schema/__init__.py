"""What requests and answers look like: the one truth of checks and of /openapi.json."""
