"""The command line: a module for each family of commands; what one does is in edge_node/console."""
