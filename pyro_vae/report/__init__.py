"""The report: numbers, figures, sheets of samples, and the page that holds them."""
