"""What the tables measure: groups of columns, one file a group."""
