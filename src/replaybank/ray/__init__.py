"""Replay beyond one machine: shards on Ray."""
