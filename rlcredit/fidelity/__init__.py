"""`rlcredit fidelity`: does a strategy choose the tokens at which the outcome is decided?"""
