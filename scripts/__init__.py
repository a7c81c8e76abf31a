"""The command lines; installed, they are the package ``backlit`` with one command of that name."""
