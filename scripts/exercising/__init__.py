"""What `exercise.py` runs: a file for each part of the course sheet, and the documents made of their numbers."""
