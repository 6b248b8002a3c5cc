"""What the operator sets: environment variables, checked once at start.

- `settings`: every variable with its default and its rule, and the frozen `Config`
- `variables`: how the text of one variable becomes a value, or a sentence about what is wrong
- `mongo_address`: which MongoDB addresses are accepted
"""

from webapp.config.settings import Config, ConfigError

__all__ = ["Config", "ConfigError"]
