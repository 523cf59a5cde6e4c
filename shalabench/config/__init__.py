"""Settings: layers of presets and overrides, ablations, and the runs that a command asks for."""
