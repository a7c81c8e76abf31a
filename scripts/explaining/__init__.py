"""The subcommands of ``explain.py``, a file each: ``add_arguments(parser)`` and ``run(args)``."""
