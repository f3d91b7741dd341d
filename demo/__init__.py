"""Rooms that nobody lives in: for a first look, for tests, and for training the demo model."""
