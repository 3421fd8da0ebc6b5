"""The parts of the container: each a record of long-lived objects, and the function that builds it from others."""
