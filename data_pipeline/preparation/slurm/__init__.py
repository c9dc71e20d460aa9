"""The tasks of a phase on a SLURM cluster, as job arrays that datatrove makes.

    engine    the flow: submit, wait, tell, try again, give up
    settings  what the user says, checked so that no value can become code
    script    the batch script's text
    array     datatrove's executor, and what happens in one task of an array
    outcomes  what tasks tell whoever waits for them, by files
    queue     what SLURM knows

Only `array` knows datatrove.
"""
