"""What to compare with: classical codecs through Pillow and programs, learned ones through CompressAI."""
