"""From a measurement to a plan: would RL pay?"""
