"""The reverse process: solvers, guidance, editing."""
