"""anlyt: exactly-once analytics for an A2P messaging platform. Start reading at events.py and follow docs/architecture.md."""
