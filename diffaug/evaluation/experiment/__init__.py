"""Arms trained with equal budgets and paired seeds."""
