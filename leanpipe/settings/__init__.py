"""The settings of the flows, put together from those of their stages; the short form; the presets."""
