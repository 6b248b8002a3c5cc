"""The commands of `python -m webapp`.

- `parser`: what can be typed, and how a result is printed
- `actions`: what an operator can do to accounts and sessions
- `devfolder`: what `--dev` keeps in `.dev/`
- `demo`: the demo account of `--dev`
"""
