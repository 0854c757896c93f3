"""The web app in a browser, against the real service: run by scripts/test-web."""
