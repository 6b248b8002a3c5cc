"""Every program in examples/, run."""
