"""Execution of jobs: one by one, or in processes of this machine, with a display of the progress."""
