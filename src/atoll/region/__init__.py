"""One region at run time: the commit door, reads and their waits, escrow, and the ways to its peers."""
