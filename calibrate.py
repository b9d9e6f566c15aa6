"""Choose the noise levels of a prior: ``python calibrate.py --help``."""

from diffpress.commands.calibrate import main

if __name__ == "__main__":
    raise SystemExit(main())
