"""What the operator sets: the variables, the address of MongoDB, and the frozen `Config`."""

from webapp.config.settings import Config, ConfigError

__all__ = ["Config", "ConfigError"]
