"""Foundation models for nuclear and particle physics."""
