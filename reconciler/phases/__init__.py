"""One file a phase: each does the work of its phase and says what moves the environment on."""
