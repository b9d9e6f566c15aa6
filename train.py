"""Train, validate and test models: ``python train.py fit -c configs/denoiser/pixel.yaml`` (``--help`` for the rest)."""

from diffpress.commands.train import main

if __name__ == "__main__":
    raise SystemExit(main())
