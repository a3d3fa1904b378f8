"""What all offline programs stand on: errors, files, long jobs."""
