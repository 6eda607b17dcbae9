"""The format of llama.cpp and Ollama: files, quantised weights, vocabularies, the program."""
