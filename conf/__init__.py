"""What a run is: one Hydra root per verb, one group per choice, one file per option."""
