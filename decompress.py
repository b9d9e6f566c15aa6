"""Files to images: ``python decompress.py --help``."""

from diffpress.commands.decompress import main

if __name__ == "__main__":
    raise SystemExit(main())
