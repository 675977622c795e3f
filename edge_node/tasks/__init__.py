"""Pure decisions about tasks: events and values in, instructions and values out."""
