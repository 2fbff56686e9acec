"""Where a region keeps its documents, journal, positions and audit."""
