"""The tests."""

import os

# No power cut is tested, and waiting for the disk takes 4 ms a file. Of every process that imports
# a module from here, so of those that tests fork too.
os.fsync = lambda _: None
