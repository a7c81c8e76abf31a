"""One file per benchmark case; each offers ``run(quick) -> Iterator[Result]`` and is found by its name."""
