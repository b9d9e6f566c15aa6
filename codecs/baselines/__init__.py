"""What to compare with: classical codecs through Pillow and ffmpeg, learned ones through CompressAI."""
