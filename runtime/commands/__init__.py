"""What `run_engine.py` does, a file for each of its actions, and the commands `runtime.record`, `evaluate`, `plot`."""
