"""What ingress touches: PostgreSQL and the orchestrator's API."""
