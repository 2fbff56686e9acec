"""Recorded histories, and checkers of what a database promised to those who recorded them."""
