"""Random inputs that several tests draw from."""
