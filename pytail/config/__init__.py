"""Settings: what an operator can choose, and where each value comes from."""
