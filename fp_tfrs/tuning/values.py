"""What keras-tuner calls the values of a trial → the settings of a run; Tuner and Trainer read them alike."""

from __future__ import annotations

from typing import Any

from fp_tfrs.config import Settings

PLAN = "tuner/"  # what keras-tuner's names of its own values begin with
EPOCHS = f"{PLAN}epochs"  # Hyperband's, of a trial
_DIGITS = 6  # of a tried number, so that a user can write it as it is printed


def read_settings(values: Settings) -> Settings:
    """Dotted path → value: without keras-tuner's own values, numbers rounded."""
    return {path: round_number(value) for path, value in values.items() if not path.startswith(PLAN)}


def round_number(value: Any) -> Any:
    """As trials are trained with it; what is no fraction is left as it is."""
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def describe_settings(values: Settings) -> str:
    """The values in a line, paths by their last part."""
    return ", ".join(f"{path.rsplit('.', 1)[-1]} {value}" for path, value in read_settings(values).items())
