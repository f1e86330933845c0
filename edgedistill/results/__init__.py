"""What a measurement, a row and a report are: frozen dataclasses, to and from JSON at the edge. No torch."""
