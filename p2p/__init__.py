"""Carries messages and bytes between peers."""
