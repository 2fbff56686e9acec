"""Finds bugs of the regions' real code by running many of them, with faults, from seeds: `atoll simulate`."""
