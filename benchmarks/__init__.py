"""One script per question; results with the machine they were taken on lie beside them."""
