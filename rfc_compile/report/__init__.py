"""What users see of it: explain() and stats(), as text and as pictures."""
