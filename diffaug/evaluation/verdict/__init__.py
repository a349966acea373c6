"""The result, the decision and its wording."""
