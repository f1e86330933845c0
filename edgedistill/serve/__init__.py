"""A GGUF file behind OpenAI's API: HTTP, questions and answers, several at once, grammars and tools; see server.py.

Reading order: server.py (the parent's side), server_worker.py (the child's), server_front.py (who may ask, which
paths), openai_api.py (a question becomes jobs), batching.py (jobs share the model).
"""
