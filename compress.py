"""Images to files: ``python compress.py --help``."""

from diffpress.commands.compress import main

if __name__ == "__main__":
    raise SystemExit(main())
