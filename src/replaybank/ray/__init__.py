"""Replay shards on Ray: many machines, one memory."""
