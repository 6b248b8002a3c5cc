"""MongoDB: how the app reaches it, what it needs there, and what errors mean.

- `client`: how the app connects, with which defaults and time limits
- `indexes`: creates indexes, and checks at start that the user may write
- `errors`: what an error of the driver means to the app and to an operator
- `mongod`: a real mongod for `--dev` and for the tests: found, started, ended
"""
