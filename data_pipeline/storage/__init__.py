"""Where the files of a dataset lie: in a folder of this machine, or on a server, cached here while they are needed."""
