"""Who somebody is: accounts, passwords, sign-in, and the throttle in front of it."""

from webapp.accounts.users import ACCOUNTS, Account, Accounts

__all__ = ["ACCOUNTS", "Account", "Accounts"]
