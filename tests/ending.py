"""How a program ends, whether its parser or its work refuses."""


def exit_code(main, argv):
    """Return the exit code of a program."""
    try:
        return main(argv)
    except SystemExit as end:
        return end.code
