"""Small things that every room may use: files, locks, progress, text, half floats. Imports errors alone."""
