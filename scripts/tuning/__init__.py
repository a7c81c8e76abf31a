"""What ``tune.py`` needs: the search space, the study in its storage, worker processes, the report."""
