"""From a folder to a model that is ready."""
