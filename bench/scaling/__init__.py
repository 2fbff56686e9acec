"""What grows with the number of regions, measured on the simulator and on the formats."""
