"""Objects to bytes and back: serializers by name, and exceptions as documents."""
