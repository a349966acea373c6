"""The pool: which images it holds and how it is filled."""
