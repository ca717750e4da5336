"""What the gate has to do, case by case, written down by hand: the same cases run in memory and on a real broker."""
