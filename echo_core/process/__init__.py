"""What a whole process shares: locks that a forked child gets anew, and one progress bar."""
