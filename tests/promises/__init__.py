"""What holds Mercury to its promises: clients that write down what they asked and saw, and a checker."""
