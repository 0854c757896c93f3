"""Chats: messages into the model's template, and its text into messages with calls and reasoning."""
