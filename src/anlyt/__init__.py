"""anlyt: exactly-once analytics for an A2P messaging platform. The flow is drawn in docs/architecture.md."""
