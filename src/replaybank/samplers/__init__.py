"""Samplers decide which ids are drawn."""
