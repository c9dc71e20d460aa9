"""How a corpus becomes a dataset: phases of small tasks that leave their results in files, so any of them can be done
again, by any process, on any machine that sees the folder, and a preparation that was killed goes on where it was."""
