"""Stages of a run: what each is called, what its key hashes, which room builds it. compile.py puts them in order. No
torch.
"""
