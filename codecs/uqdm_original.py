"""The name under which outside code imports the calls of the original UQDM repository; see uqdm/published_api.py."""

from .uqdm.published_api import *  # noqa: F403
