"""How much data the transform needs: a planted ridge that random points must show above their noise."""
