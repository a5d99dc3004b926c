"""What every part of the program exchanges, as frozen data, and the errors that a user reads."""
