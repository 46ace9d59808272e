"""How the zoo is trained: recipes, what a network sees, what it is trained to do, and the optimiser."""
