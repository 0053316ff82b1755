"""Buffers as other libraries expect them, each in the module named after its library."""
