"""`python -m trustbound`: the command line."""

from trustbound.cli.main import main

if __name__ == "__main__":
    main()
