"""What happens when two regions wrote the same thing without seeing each other."""
