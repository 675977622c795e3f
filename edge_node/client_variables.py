"""What clients of a node find in the environment. No settings of a node, though named alike."""

# An API key, if nodes ask for one; and a file with the authorities of nodes that speak TLS, where
# these are not the public's.
KEY_VARIABLE, AUTHORITIES_VARIABLE = "DEDGEAI_API_KEY", "DEDGEAI_CA_FILE"
FOR_CLIENTS = (KEY_VARIABLE, AUTHORITIES_VARIABLE)
