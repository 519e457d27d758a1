"""What is kept between full steps, and how it lies in memory."""
