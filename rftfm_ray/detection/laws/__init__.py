"""Laws: relations between logged figures that hold by definition of the algorithm and the declared configuration."""
