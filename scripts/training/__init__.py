"""What ``train.py`` and ``evaluate.py`` need beyond the packages: command line, run directory, interrupts, results."""
