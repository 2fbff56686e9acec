"""One region at run time: the commit group commit, reads and their waits, escrow, and the ways to its peers."""
