"""What is kept between full steps, and its layout in memory."""
