"""Requests to an API server, and to servers that misbehave."""
