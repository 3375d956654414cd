"""Files in and out: profiles from other systems' exports, and ours for others; streaming."""


class TransferError(Exception):
    """A file cannot be read or written; the text is one line that says which, where and why."""
