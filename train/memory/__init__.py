"""What a rank will need of memory, from the shapes of the model and the rules of ZeRO, before anything is started."""
