"""What the app does by itself in the surroundings of a framework."""
