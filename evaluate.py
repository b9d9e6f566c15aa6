"""``python evaluate.py --codecs diffc uqdm webp --data kodak -o OUT``; see diffpress/commands/evaluate.py."""

from diffpress.commands.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
