"""What torch, safetensors, json and SAELens raise on a file that is missing, cut short or altered."""

import pickle

from safetensors import SafetensorError

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,
)
