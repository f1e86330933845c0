"""The parts of bench/recovery.py: texts, judges, llama.cpp's own rows, the folder that rows come from, table and
plot.
"""
