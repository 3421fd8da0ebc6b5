"""What a piece of this server raises that did not expect such input: its fault, and no reason to refuse the rest."""

WRONG = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
