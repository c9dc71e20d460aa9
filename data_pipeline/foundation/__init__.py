"""What every package stands on: errors for people, configuration, commands, durable files, progress."""
