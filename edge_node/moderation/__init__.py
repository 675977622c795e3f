"""Whether a request may be drawn and an image be delivered, by the operator's own word."""
