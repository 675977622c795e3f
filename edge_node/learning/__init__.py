"""Learning as one cluster: who learns, how experience gets there, how weights reach everybody."""
