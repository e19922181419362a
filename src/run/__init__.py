"""The commands, and how their parts are put together: the last place that sees the configuration."""
