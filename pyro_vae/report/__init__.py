"""The report: numbers, figures, sheets of samples, and the HTML page that shows them."""
