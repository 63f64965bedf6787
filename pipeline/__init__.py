"""Wiring: the one pipeline definition, its runners, and the command line. No arithmetic lives here."""
