"""What `python -m webapp` offers beside serving: its parser, its actions, the folder of `--dev`."""
