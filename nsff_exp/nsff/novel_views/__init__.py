"""Videos of a trained scene."""
