"""Who somebody is: accounts, passwords, sign-in, and the throttle in front of it.

- `auth`: sign-up, sign-in, sign-out, password change and deletion, each from start to end
- `users`: the accounts in MongoDB
- `usernames`: which user names and email addresses are accepted, and when two are the same
- `passwords`: how passwords are hashed
- `fair_queue`: whose turn it is when many wait for that
- `password_rules`: which passwords are accepted
- `throttle`: how often somebody may try
- `networks`: what is counted as one address
- `forms`: the fields of each form
"""

from webapp.accounts.users import ACCOUNTS, Account, Accounts

__all__ = ["ACCOUNTS", "Account", "Accounts"]
