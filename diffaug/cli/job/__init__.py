"""Commands that run the stages of a job."""
