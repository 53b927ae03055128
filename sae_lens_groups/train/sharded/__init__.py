"""Groups whose SAEs several ranks train together: each has a shard, an SAE of a part of the features.

What is written is the whole SAE, by the first of these ranks, and what is read is cut up again. So
files do not know of shards.
"""
