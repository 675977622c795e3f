"""The paper's scheduling problem as a program: scenarios, arrivals, servers, rules and bounds."""
