"""Malformed inputs of every reader, made by number, and the laws that hold for each of them."""
