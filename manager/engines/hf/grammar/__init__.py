"""The form that an answer must have: fields read, grammars compiled and followed."""
