"""The experiments: what replay is for, shown with evidence. Stands on replaybank's public names only."""


class SettingError(ValueError):
    """A setting that cannot work. The message names the flag, what was given and what is expected."""
