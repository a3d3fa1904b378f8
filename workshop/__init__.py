"""What all offline programs stand on: errors, files, output folders and their owners, work in several processes."""
