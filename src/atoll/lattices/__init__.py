"""Mergeable field types: counters, bounded counters, sets, lists and texts."""
