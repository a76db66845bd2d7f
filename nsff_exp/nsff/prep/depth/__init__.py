"""Networks that estimate the disparity of single frames."""
