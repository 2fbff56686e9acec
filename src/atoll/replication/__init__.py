"""Links: each region pulls the journals of its peers, and relays those that it has."""
