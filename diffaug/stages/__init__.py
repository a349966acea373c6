"""A stage run inside a study: kept, resumed, narrated, logged."""
