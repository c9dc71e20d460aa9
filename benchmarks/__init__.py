"""Speed, as ratios against a limit or a plain loop measured in the same run. `python -m benchmarks`."""
