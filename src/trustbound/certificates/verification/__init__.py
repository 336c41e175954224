"""Properties of a network: is there an input of a box whose outputs lie in an unsafe set?

`vnnlib` reads a property, `properties` says what it is, `verifying` decides it: `falsifying` looks for an input that
breaks it, the certifiers prove that there is none, `input_splitting` halves the box where it has few sides.
"""
