"""How often does a model pass each prompt as it is, and is the skill latent?"""
