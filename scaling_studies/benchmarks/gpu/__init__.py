"""The paths that a GPU takes, compared with other means and timed under its roofline: qrt-tn bench gpu."""
