"""One file per benchmark case; each offers ``run(quick, data_dir) -> Iterator[Result]`` and is found by its name."""
